"""Norms of an existing model are converted to another, and keep all that means the same in both."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.convert import convert
from normzoo.surgery.report import SurgeryError
from tests.surgery import strangers

C = 6
LAYERS = [
    name
    for name in normzoo.list_norms(kind="layer")
    if normzoo.info(name).build.__module__.startswith("normzoo.norms.")
]


class Net(nn.Module):
    """A norm of each sort: shared, without affine, for tokens, of strangers, with another argument."""

    def __init__(self):
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, C, 1)
        self.bn = nn.BatchNorm2d(C)
        self.shared = self.bn
        self.bare = nn.BatchNorm2d(C, affine=False, momentum=None)
        self.masked = strangers.MaskedBatchNorm(C, eps=1e-3)
        self.tokens = nn.Sequential(nn.LayerNorm(C, bias=False), nn.Linear(C, C), strangers.T5LayerNorm(C))
        self.gemma = strangers.GemmaRMSNorm(C)

    def forward(self, x):
        x = self.shared(self.again(self.bn(self.conv(x)).relu()))
        x = self.masked(self.bare(x), mask=None)
        return self.gemma(self.tokens(x.flatten(2).transpose(1, 2)))


def trained():
    """A net whose parameters and statistics are no longer those that it began with."""
    net = Net().double()
    for p in net.parameters():
        nn.init.normal_(p, 0.5)
    net(torch.randn(4, 3, 4, 4).double())
    return net


def an_input():
    return torch.randn(4, 3, 4, 4, dtype=torch.float64)


def actions(report):
    return {row.name: row.action for row in report}


@pytest.mark.parametrize("to", LAYERS)
@pytest.mark.filterwarnings("ignore:CrossIterationBatchNorm")
def test_a_net_with_any_norm_trains_and_is_restored(to):
    net = trained()
    before, state = dict(net.named_modules(remove_duplicate=False)), copy.deepcopy(net.state_dict())
    tensors = {name: id(t) for name, t in net.state_dict(keep_vars=True).items()}
    optimizer = torch.optim.AdamW(net.parameters())
    report = convert(net, to, optimizer=optimizer, sample=an_input())
    assert report.model is net
    assert report.counts() == {"converted": 6}
    assert net.shared is net.bn
    torch.testing.assert_close(before["bn"].state_dict(), {n[3:]: t for n, t in state.items() if n.startswith("bn.")})
    assert convert(net, to).counts() == {"kept": 6}, "converted twice"
    for _ in range(2):
        optimizer.zero_grad()
        net(an_input()).square().sum().backward()
        optimizer.step()
    trainable = {id(p) for p in net.parameters() if p.requires_grad}
    assert trainable <= {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert report.undo() is net
    assert dict(net.named_modules(remove_duplicate=False)) == before
    assert {name: id(t) for name, t in net.state_dict(keep_vars=True).items()} == tensors
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in net.parameters()]


SAME = {
    "batch_norm": ("bn", "bare", "masked"),
    "sync_batch_norm": ("bn", "bare", "masked"),
    "local_batch_norm": ("bn", "bare", "masked"),
    "layer_norm_channel": ("tokens.0",),
    "rms_norm": ("tokens.2", "gemma"),
}


@pytest.mark.parametrize("to", SAME)
def test_a_norm_of_the_same_equation_gives_the_same_outputs(to):
    net, x = trained(), an_input()
    before = copy.deepcopy(net)
    expected = {name: parameter for name, parameter in net.named_parameters() if name.startswith(SAME[to])}
    report = convert(net, to, where=list(SAME[to]))
    assert {name for name, action in actions(report).items() if action == "converted"} == {*SAME[to]}
    outputs = [[model(x), model.eval()(x)] for model in (net, before)]
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)  # T5's computes in float32
    left = {id(p) for p in net.parameters()}
    shifted = ["gemma.weight"] if to == "rms_norm" and "weight_offset" not in normzoo.info(to).arguments else []
    assert [n for n, p in expected.items() if id(p) not in left] == shifted


def test_what_a_layer_has_is_kept():
    layer = nn.BatchNorm2d(C, eps=1e-3, momentum=0.2).to(torch.bfloat16)
    layer(torch.randn(4, C, 2, 2, dtype=torch.bfloat16))
    layer.weight.requires_grad_(False)
    model = nn.Sequential(layer).eval()
    calls = []
    handle = layer.register_forward_hook(lambda *_: calls.append("forward"))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    report = convert(model, "ghost_batch_norm", group_size=2)
    new = model[0]
    assert type(new).__name__ == "GhostBatchNorm"
    assert (new.eps, new.momentum, new.group_size, new.training) == (1e-3, 0.2, 2, False)
    assert new.weight is layer.weight
    assert not new.weight.requires_grad
    assert new.bias.requires_grad
    assert new.running_mean.data_ptr() == layer.running_mean.data_ptr()
    assert new.num_batches_tracked == 1
    model(torch.randn(4, C, 2, 2, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert calls == ["forward", "backward"]
    handle.remove()
    model(torch.randn(4, C, 2, 2, dtype=torch.bfloat16))
    report.undo()(torch.randn(4, C, 2, 2, dtype=torch.bfloat16))
    assert calls == ["forward", "backward"]
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_stays_on_its_device(device):
    model = nn.Sequential(nn.BatchNorm2d(C), nn.InstanceNorm2d(C)).to(device)
    convert(model, "group_norm")
    assert {p.device.type for p in model.parameters()} == {device}
    assert model(torch.randn(2, C, 2, 2, device=device)).shape == (2, C, 2, 2)


def test_a_model_that_is_itself_a_norm_is_replaced():
    layer = nn.LayerNorm(C)
    report = convert(layer, "rms_norm")
    assert type(report.model).__name__ == "RMSNorm"
    assert report.model.weight is layer.weight
    assert [row.name for row in report] == [""]
    assert report.undo() is report.model is layer


@pytest.mark.parametrize("to", ["group_norm", "batch_norm", "evo_norm_s0"])
def test_the_activation_and_the_drop_layer_stay(to):
    layers = pytest.importorskip("timm.layers")
    layer = layers.BatchNormAct2d(C, act_layer=nn.Hardswish, drop_layer=nn.Dropout2d)
    model = nn.Sequential(layer)
    keys = [key for key in model.state_dict() if "running" not in key and "num" not in key]
    report = convert(model, to)
    assert [name for name, _ in model[0].named_children()] == [
        "norm",
        "drop",
        *(["act"] if to != "evo_norm_s0" else []),
    ]
    assert model[0].drop is layer.drop
    assert {*keys} <= {*model.state_dict()}
    x = torch.randn(2, C, 3, 3)
    if to == "batch_norm":
        torch.testing.assert_close(model.eval()(x), layer.eval()(x))
    assert ("activation of its own" in report[0].reason) == (to == "evo_norm_s0")


def test_channels_that_come_last_stay_there():
    model = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, C)).double()
    convert(model, "batch_norm")
    x = torch.randn(2, 5, C, dtype=torch.float64)
    expected = nn.functional.batch_norm(x.movedim(-1, 1), None, None, training=True).movedim(1, -1)
    torch.testing.assert_close(model[0](x), expected)
    assert {"0.weight", "0.running_mean"} <= {*model.state_dict()}
    assert {*convert(model, "layer_norm_channel").counts()} == {"converted"}
    torch.testing.assert_close(model[0](x), nn.functional.layer_norm(x, (C,)))


def test_further_arguments_are_taken_but_not_ignored():
    model = nn.Sequential(strangers.MaskedBatchNorm(C))
    convert(model, "scale_norm")
    x = torch.randn(2, C, 3, 3)
    assert model[0](x, None).shape == model[0](x, mask=None).shape == x.shape
    with pytest.raises(SurgeryError, match="ScaleNorm has no use for mask"):
        model[0](x, mask=torch.ones_like(x))


def test_converted_layers_take_masks():
    """Also behind an activation, and where the channels come last."""
    layers = pytest.importorskip("timm.layers")
    x, mask = torch.randn(3, C, 4, 4), torch.rand(3, 4, 4) > 0.3
    wanted = normzoo.create("batch_norm", C)(x, mask=mask)
    assert torch.equal(convert(layers.BatchNormAct2d(C), "batch_norm").model(x, mask=mask), wanted.relu())
    last = convert(nn.LayerNorm(C), "batch_norm").model
    for form in (mask, mask[..., None]):
        assert torch.equal(last(x.movedim(1, -1), mask=form), wanted.movedim(1, -1))
    with pytest.raises(SurgeryError, match="has no use for mask"):
        convert(nn.LayerNorm(C), "ghost_batch_norm").model(x.movedim(1, -1), mask=mask)


@pytest.mark.parametrize(("kind", "to"), [(nn.LayerNorm, "layer_norm_channel"), (nn.RMSNorm, "rms_norm")])
def test_several_trailing_dimensions_stay_together(kind, to):
    model = nn.Sequential(kind((C, 4), eps=1e-3))
    nn.init.normal_(model[0].weight)
    x, weight = torch.randn(2, 3, C, 4), model[0].weight
    expected = model(x)
    report = convert(model, to)
    assert actions(report) == {"0": "converted"}
    assert model[0].weight is weight
    torch.testing.assert_close(model(x), expected)
    assert "the last 2 dimensions together" in convert(model, "group_norm")[0].reason
    assert isinstance(report.undo()[0], kind)


def test_a_weight_of_one_less_is_handed_over_with_its_optimizer_state():
    model = nn.Sequential(strangers.GemmaRMSNorm(C), nn.Linear(C, C))
    optimizer = torch.optim.Adam([{"params": model[1].parameters()}, {"params": model[0].parameters(), "lr": 1e-2}])
    model(torch.randn(3, C)).sum().backward()
    optimizer.step()
    old = model[0].weight
    moment = optimizer.state[old]["exp_avg"]
    report = convert(model, "layer_norm_channel", optimizer=optimizer)
    torch.testing.assert_close(model[0].weight, 1 + old)
    assert optimizer.param_groups[1]["params"] == [model[0].weight]
    assert optimizer.state[model[0].weight]["exp_avg"] is moment
    with torch.no_grad():
        model[0].weight += 1
        expected = model[0].weight - 1
    report.undo()
    torch.testing.assert_close(old, expected)
    assert optimizer.state[old]["exp_avg"] is moment


def test_groups_that_do_not_divide_the_channels_are_resolved():
    model = nn.Sequential(nn.BatchNorm2d(48), nn.BatchNorm2d(64), nn.BatchNorm2d(7))
    report = convert(model, "group_norm", num_groups=32)
    assert [layer.num_groups for layer in model] == [24, 32, 1]
    assert "num_groups=24" in report[0].reason
    model = nn.Sequential(nn.GroupNorm(3, C))
    convert(model, "group_norm_scratch")
    assert model[0].num_groups == 3, "its own number"


def test_undo_follows_the_model():
    model = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C))
    layer = model[1]
    report = convert(model, "group_norm")
    model.double().eval()
    with torch.no_grad():
        model[1].weight.fill_(3)
    report.undo()
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float64, torch.int64}
    assert not layer.training
    assert layer.weight.eq(3).all(), "a weight that both have is trained on"
    report.undo()
    first, second = convert(model, "group_norm"), convert(model, "layer_norm")
    with pytest.raises(SurgeryError, match="undo the later operation first"):
        first.undo()
    second.undo()
    assert first.undo()[1] is layer


def test_a_dry_run_changes_nothing():
    net = trained()
    state, modules = copy.deepcopy(net.state_dict()), list(net.modules())
    tried = convert(net, "group_norm", dry_run=True)
    assert list(net.modules()) == modules
    torch.testing.assert_close(net.state_dict(), state)
    assert tried.as_dicts() == convert(net, "group_norm").as_dicts()
