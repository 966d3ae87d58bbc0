"""Which norms are converted, what is out of reach, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import normzoo
from normzoo.errors import UserError
from normzoo.surgery.convert import convert
from tests.surgery import strangers

C = 4


def a_model():
    return nn.ModuleDict(
        {
            "stem": nn.BatchNorm2d(C),
            "layer1": nn.Sequential(nn.BatchNorm2d(C), nn.GroupNorm(2, C)),
            "layer10": nn.Sequential(nn.BatchNorm2d(C), nn.LayerNorm(C)),
        }
    )


CHOICES = {
    "a name": ({"where": "stem"}, {"stem"}),
    "the name of a parent": ({"where": "layer1"}, {"layer1.0", "layer1.1"}),
    "a pattern": ({"where": "layer*.0"}, {"layer1.0", "layer10.0"}),
    "a class": ({"where": nn.GroupNorm}, {"layer1.1"}),
    "several": ({"where": [nn.LayerNorm, "stem"]}, {"stem", "layer10.1"}),
    "a function": ({"where": lambda name, layer: name.endswith("0") and layer.affine}, {"layer1.0", "layer10.0"}),
    "all but": ({"exclude": ["layer1.*", nn.LayerNorm]}, {"stem", "layer10.0"}),
    "the first": ({"first": 2}, {"stem", "layer1.0"}),
    "the last": ({"last": 1}, {"layer10.1"}),
    "both ends of some": ({"where": nn.BatchNorm2d, "first": 1, "last": 1}, {"stem", "layer10.0"}),
    "more than there are": ({"last": 9}, {"stem", "layer1.0", "layer1.1", "layer10.0", "layer10.1"}),
}


@pytest.mark.parametrize("case", CHOICES)
def test_norms_are_chosen_by(case):
    rules, expected = CHOICES[case]
    model = a_model()
    report = convert(model, "unit_norm", **rules)
    assert {row.name for row in report if row.action == "converted"} == expected
    assert {name for name, m in model.named_modules() if type(m).__name__ == "UnitNorm"} >= expected - {"layer10.1"}
    assert {row.reason for row in report if row.action == "kept"} <= {"not chosen"}


REFUSED = {
    "an unknown norm": (("grop_norm",), {}, "did you mean group_norm"),
    "an unknown option": (("group_norm",), {"groups": 4}, "unknown keyword 'groups'"),
    "a wrong type": (("group_norm",), {"num_groups": "8"}, "num_groups must be a whole number"),
    "no groups": (("group_norm",), {"num_groups": 0}, "num_groups must be 1 or more"),
    "an eps below 0": (("batch_norm",), {"eps": -1.0}, "eps must be"),
    "a norm of weights": (("spectral_norm",), {}, "normalizes a weight"),
    "a conditional norm": (("adaptive_layer_norm",), {}, "takes a condition"),
    "a layout": (("rms_norm",), {"channel_dim": -1}, "leave it out"),
    "a name of no norm": (
        ("group_norm",),
        {"where": "layr1.*"},
        "of no norm of the model; its norms: 'stem'",
    ),
    "an exclusion of no norm": (("group_norm",), {"exclude": "steam"}, "exclude='steam'"),
    "a rule of another kind": (("group_norm",), {"where": 3}, "where is a pattern, a class, a function"),
    "no number of norms": (("group_norm",), {"first": 0}, "first is a number of norms"),
    "no optimizer": (("group_norm",), {"optimizer": "adam"}, "must be a torch.optim.Optimizer"),
    "a sample that does not fit": (("group_norm",), {"sample": torch.zeros(1)}, "cannot take the sample"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_and_the_model_untouched(case):
    arguments, options, said = REFUSED[case]
    model = a_model()
    state, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    with pytest.raises(UserError, match=said) as caught:
        convert(model, *arguments, **options)
    assert "\n" not in str(caught.value)
    assert list(model.modules()) == modules
    torch.testing.assert_close(model.state_dict(), state)
    assert all(module.training for module in modules)


def test_what_is_no_model_is_refused():
    with pytest.raises(UserError, match=r"takes a model, an nn\.Module; got str"):
        convert("model", "group_norm")


def test_a_model_without_norms_is_left_and_said_to_be():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    report = convert(model, "group_norm")
    assert (len(report), report.undo()) == (0, model)
    assert str(report) == "Sequential holds no norm"


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm = nn.LayerNorm(C)  # named as the function

    def forward(self, x, off=False):
        return F.group_norm(x, 2) if off else F.layer_norm(self.layer_norm(x), (C,))


def test_norms_out_of_reach_are_found_and_kept():
    model = nn.ModuleDict(
        {
            "scripted": torch.jit.script(nn.Sequential(nn.BatchNorm2d(C))),
            "functional": nn.Sequential(Functional()),
            "stranger": strangers.AbsoluteBatchNorm(C),
            "lazy": nn.LazyBatchNorm2d(),
            "compiled": nn.Module(),
            "conditional": normzoo.create("adaptive_layer_norm", C, condition_features=2),
            "frozen": normzoo.freeze(nn.Sequential(nn.BatchNorm2d(C))),
        }
    )
    model["compiled"].add_module("_orig_mod", nn.LayerNorm(C))
    report = convert(model, "rms_norm")
    kept = {row.name: row.reason for row in report if row.action == "kept" and not row.was.startswith("F.")}
    assert {*kept} == {"scripted.0", "stranger", "lazy", "compiled._orig_mod", "conditional", "frozen.0"}
    assert "before torch.jit.script" in kept["scripted.0"]
    assert "takes a condition" in kept["conditional"]
    assert "unfreeze it first" in kept["frozen.0"]
    assert "before torch.compile" in kept["compiled._orig_mod"]
    assert [(row.name, row.was) for row in report if row.was.startswith("F.")] == [
        ("functional.0", "F.group_norm"),
        ("functional.0", "F.layer_norm"),
    ]


def test_a_sample_tells_which_functions_are_called_and_leaves_no_trace():
    model = nn.Sequential(nn.LayerNorm(C), Functional(), nn.Dropout())
    model[2].eval()
    state, x = copy.deepcopy(model.state_dict()), torch.randn(2, C)
    random = torch.get_rng_state()
    report = convert(model, "rms_norm", sample=x)
    assert [(row.name, row.was) for row in report if row.was.startswith("F.")] == [("1", "F.layer_norm")]
    assert [m.training for m in model] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close({k: v for k, v in state.items() if "weight" in k}, model.state_dict())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_norm_that_would_refuse_its_input_is_not_put_there():
    model = nn.Sequential(nn.BatchNorm2d(C), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(C), strangers.PixelNorm())
    report = convert(model, "instance_norm", sample=torch.randn(1, C, 3, 3))
    assert [(row.name, row.action) for row in report] == [("0", "converted"), ("2", "kept"), ("3", "kept")]
    assert "would refuse its input" in report[1].reason


def test_a_scripted_norm_is_named_within_a_model():
    model = nn.Sequential(torch.jit.script(nn.BatchNorm2d(C)))
    assert convert(model, "group_norm").as_dicts()[0]["was"] == "BatchNorm2d"


@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_calls_its_new_norms(padded):
    """In evaluation torch's encoder computes layer norm itself, from the weights of its norms."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 1).double().eval()
    x, padding = torch.randn(2, 3, 8).double(), torch.tensor([[False, False, True]] * 2) if padded else None
    same = convert(model, "layer_norm_channel")
    y = model(x, src_key_padding_mask=padding)
    assert [row.action for row in same] == ["converted", "converted", "switched off"]
    same.undo()
    assert model.use_nested_tensor
    expected = model(x, src_key_padding_mask=padding)
    shown = y[:, : expected.shape[1]]
    keep = slice(None) if padding is None else ~padding[:, : expected.shape[1]]
    torch.testing.assert_close(shown[keep], expected[keep])
    convert(model, "scale_norm")
    assert not torch.allclose(model(x), expected if padding is None else y)
