"""Fine-tuning and test-time adaptation as studies: what is done to the net, and what is measured."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import normzoo
from normzoo.errors import UserError
from normzoo.probes._supervised import shifted
from normzoo.probes.adaptation import adapt_to_batches
from normzoo.probes.fine_tuning import BEFORE, fine_tuning

TINY: dict[str, Any] = {"new_images": 16, "epochs": 1, "pretrain_epochs": 2, "pretrain_batch": 16}


def parts(norm: str = "batch_norm", lr: float = 0.01) -> Any:
    """Two classes, told apart by the sign of the pixels' mean: easy to learn."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(112) % 2
    x = torch.randn(112, 1, 4, 4, generator=draw) + (2.0 * y - 1).view(-1, 1, 1, 1)
    sets = {"train": (x[:80], y[:80]), "val": (x[80:], y[80:])}
    data = SimpleNamespace(tensors=lambda split: sets[split], num_classes=2, image_shape=(1, 4, 4), num_val=32)

    def model(_: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), normzoo.create(norm, 8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))

    return SimpleNamespace(
        config=SimpleNamespace(seed=0, batch_size_per_device=2),
        data=lambda: data,
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    )


@pytest.mark.parametrize("arm", BEFORE)
def test_every_arm_is_tuned_from_the_same_pretrained_net(arm: str) -> None:
    found, arrays = fine_tuning(parts(), arm=arm, **TINY)
    plain, _ = fine_tuning(parts(), **TINY)
    tracked = arm in ("as_is", "recalibrate", "batch_renorm")
    assert ("error_recalibrated" in found, arrays) == (tracked, {})
    assert found["error_pretrained"] == plain["error_pretrained"] < 20
    assert found["error_untreated"] == plain["error_untreated"] > found["error_pretrained"]
    assert found == fine_tuning(parts(), arm=arm, **TINY)[0]  # same seed, same result


def test_recalibration_repairs_a_shift_and_fine_tuning_forgets_it() -> None:
    treated, _ = fine_tuning(parts(), arm="recalibrate", **TINY)
    assert treated["error_treated"] < treated["error_untreated"]
    none, _ = fine_tuning(parts(), shift="none", **TINY)
    assert none["error_untreated"] == none["error_pretrained"]


def test_adapting_helps_at_large_batches_and_puts_the_model_back() -> None:
    found, _ = adapt_to_batches(parts(), batch_sizes=(1, 16), samples=32, epochs=3, lr=1e-4)
    assert set(found) == {"error_none", *(f"error_{m}_{n}" for m in ("adabn", "blend", "tent") for n in (1, 16))}
    assert found["error_adabn_16"] < found["error_none"]
    assert found["error_tent_16"] == found["error_adabn_16"]  # with so small a step
    assert adapt_to_batches(parts("group_norm"), batch_sizes=(4,), samples=32, epochs=1)[0].keys() == {"error_none"}


def test_a_shift_of_severity_zero_is_none() -> None:
    x, draw = torch.randn(2, 1, 3, 3), torch.Generator()
    assert torch.equal(shifted(x, 0.0, draw), x)
    torch.testing.assert_close(shifted(torch.zeros(10_000), 1.0, draw).mean(), torch.tensor(1.5), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "wrong", [{"arm": "thawed"}, {"shift": "some"}, {"new_images": 80}, {"epochs": 0}, {"pretrain_batch": 1.5}]
)
def test_options_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"study\."):
        fine_tuning(parts(), **{**TINY, **wrong})


@pytest.mark.parametrize("wrong", [{"severity": 2.0}, {"batch_sizes": (0,)}, {"samples": 33}, {"batch_sizes": (64,)}])
def test_options_of_adaptation_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"study\."):
        adapt_to_batches(parts(), **{"samples": 32, "batch_sizes": (8,), **wrong})
