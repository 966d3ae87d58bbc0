"""Each fault is found in a model that has it, and not in its healthy twin; the model stays as it was."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import normzoo
from normzoo import create, doctor
from normzoo.surgery._doctor_batches import EVIDENCE
from normzoo.surgery.doctor import CHECKS
from normzoo.surgery.report import SurgeryError
from tests.surgery.faults import CASES, MAPS, ROWS, SGD, Calls, rows

pytestmark = pytest.mark.filterwarnings("ignore")


def examine(built, sample, options):
    model, own = built if isinstance(built, tuple) else (built, {})
    return doctor(model, sample, **{"batch_size_per_device": 32, **options, **own})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_fault_is_found_and_its_healthy_twin_is_not_blamed(case):
    check, layer, faulty, healthy, sample, options = case
    found = [one for one in examine(faulty(), sample, options) if one.check == check]
    assert any(layer in one.layers for one in found), found
    assert all(one.reason and one.fix and one.function for one in found)
    assert [one for one in examine(healthy(), sample, options) if one.check == check] == []


def test_every_check_has_a_case():
    assert {case[0] for case in CASES} == {check.__name__ for check in CHECKS} | {"local_batch", "erased", "raises"}


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "densenet121", "convnext_tiny"])
def test_a_stock_model_at_batch_32_has_nothing_above_a_note(name):
    model = getattr(pytest.importorskip("torchvision.models"), name)()
    options = {"optimizer": SGD(model.parameters(), weight_decay=1e-4), "train_size": 50000}
    found = doctor(model, torch.randn(2, 3, 64, 64), batch_size_per_device=32, **options)
    assert found.at_least("warning") == []


@pytest.mark.parametrize("name", normzoo.list_norms(kind="layer"))
def test_the_model_stays_as_it_was(name):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), normzoo.create(name, 8), nn.Dropout(), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    )
    model[3].eval()
    normzoo.freeze(model, where=lambda name, _: name == "4")
    gradient = model[0].weight.grad = torch.ones_like(model[0].weight)
    model[0].weight.register_post_accumulate_grad_hook(lambda parameter: pytest.fail("its gradient was accumulated"))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    tensors = [id(t) for t in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    found = doctor(model, MAPS, batch_size_per_device=4)
    assert "swallowed" in {one.check for one in found}
    assert [one for one in found if one.check in ("raises", "not_checked")] == []
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert tensors == [id(t) for t in (*model.parameters(), *model.buffers())]
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert model[0].weight.grad is gradient
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (model, model[0], model[3]))
    assert [module.training for module in model.train()][3:] == [True, False]


def test_findings_are_a_table_and_data():
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6))))
    found = doctor(model, ROWS, batch_size_per_device=2, optimizer=SGD(model.parameters(), weight_decay=0.1))
    assert [one.severity for one in found] == ["warning", "note"]
    assert found.as_dicts()[0]["layers"] == ("1", "3", "5", "7")
    lines = str(found).splitlines()
    assert lines[0].split() == ["severity", "layer", "reason", "fix", "function"]
    assert lines[1].startswith("warning   1, 3 and 2 more")
    assert "57.7 ± 4.6 %" in found[0].reason
    assert lines[-1] == "1 warning, 1 note"
    assert str(doctor(nn.Linear(6, 6), ROWS, batch_size_per_device=2)) == "no findings"


def test_the_evidence_is_the_table_of_the_readme():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for norm, measured in EVIDENCE.items():
        (row,) = re.findall(rf"^\| `{norm}` \| (.* ± .*) \|$", readme, re.MULTILINE)
        assert row.split(" | ") == [f"{mean} ± {deviation}" for mean, deviation in measured.values()]
        assert f"| norm | batch {' | '.join(map(str, measured))} |" in readme


def test_a_model_that_cannot_be_trained_on_the_sample_is_checked_as_far_as_it_can_be():
    model = Calls(lambda self, x: self.norm(x) if not self.training else 1 / 0, norm=nn.BatchNorm2d(3, momentum=0.0))
    found = doctor(model, MAPS, batch_size_per_device=2)
    assert [one.check for one in found] == ["few_values", "not_checked"]
    assert "ZeroDivisionError" in found[1].reason


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("resnet18", {}, "takes a model"),
        (nn.Linear(6, 6), {"batch_size_per_device": 0}, "batch_size_per_device must be a number of 1 or more; got 0"),
        (nn.Linear(6, 6), {"devices": 2.5}, "devices must be"),
        (nn.Linear(6, 6), {"train_size": True}, "train_size must be"),
        (nn.Linear(7, 6), {}, "Linear cannot take the sample"),
        (nn.Linear(6, 6), {"norm_layer": "gruop_norm"}, "did you mean group_norm"),
    ],
)
def test_wrong_arguments_are_named(model, options, said):
    with pytest.raises((SurgeryError, normzoo.UnknownNormError), match=said):
        doctor(model, ROWS, **{"batch_size_per_device": 2, **options})


def test_it_takes_batches_of_data_loaders_and_wrapped_models():
    model = nn.DataParallel(torch.compile(rows(nn.BatchNorm1d(6))))
    for sample in ((ROWS, torch.zeros(4)), {"input": ROWS}):
        found = doctor(model, sample, batch_size_per_device=2)
        assert [one.layers for one in found] == [("1",)]
    found = doctor(
        rows(nn.BatchNorm1d(6)), {"x": ROWS}, batch_size_per_device=2, forward=lambda m, batch: m(batch["x"])
    )
    assert [one.check for one in found] == ["few_values"]


def test_one_of_several_processes_may_call_it_alone(tmp_path):
    """Synchronized norms do not wait for the others."""
    store = dist.FileStore(str(tmp_path / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = rows(create("sync_batch_norm", 6))
        assert str(doctor(model, ROWS, batch_size_per_device=32, devices=2)) == "no findings"
        assert model[1].training
    finally:
        dist.destroy_process_group()
