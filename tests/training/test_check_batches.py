"""What is refused before training for the size of a batch: of that of all processes, and of an epoch's last one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normzoo
from normzoo.errors import RefusedError
from normzoo.training.cell import run_cell
from normzoo.training.check import check_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import build_data
from normzoo.training.shape_trace import Shapes, plan_processes, trace_shapes, values_per_statistic

Compose = Callable[..., dict[str, Any]]


def checked(config: dict[str, Any]) -> Shapes:
    cell = parse(config)
    data = build_data(cell)
    data.prepare_data()
    data.setup("fit")
    return check_cell(cell, data).shapes


@pytest.mark.parametrize(
    ("norm", "devices", "refused"),
    [("sync_batch_norm", 1, True), ("sync_batch_norm", 2, False), ("batch_norm", 2, True)],
)
def test_a_synchronized_norm_counts_the_batches_of_all_processes(
    config: Compose, norm: str, devices: int, refused: bool
) -> None:
    cell = config(f"norm={norm}", f"trainer.devices={devices}", "batch_size_per_device=1")
    if refused:
        with pytest.raises(RefusedError, match=re.escape("(1, 64, 1, 1), which leaves a single value")):
            checked(cell)
    else:
        assert (1, 64, 1, 1) in checked(cell).values()


def test_planned_processes_count_before_they_are_started() -> None:
    layer = normzoo.create("sync_batch_norm", 4)
    plan_processes(layer, 3)
    assert values_per_statistic(layer, {"": (2, 4, 1, 1)}) == ({"": 6}, 6)
    with pytest.raises(ValueError, match="more than 1 value"):  # of torch's kernel: one process is all there is
        layer(torch.randn(1, 4, 1, 1))


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("batch", [1, 2])
def test_two_processes_train_on_next_to_nothing_each(config: Compose, tmp_path: Path, batch: int) -> None:
    small = ("norm=sync_batch_norm", "trainer.devices=2", "data.train_size=8", "data.val_size=8")
    result = run_cell(config(*small, f"batch_size_per_device={batch}", "trainer.max_epochs=1"), tmp_path)
    assert (result.status, result.normalization_batch) == ("ok", 2 * batch)
    assert min(result.values_per_statistic.values()) == 2 * batch


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (("norm=batch_norm",), 1),
        (("norm=batch_norm", "trainer.devices=2", "batch_size_per_device=4"), 3),  # two for one, and one for the other
        (("norm=sync_batch_norm", "trainer.devices=2", "batch_size_per_device=4"), 1),
        (("norm=ghost_batch_norm", "norm.group_size=2"), 3),
        (("norm=iter_norm", "norm.channels_per_group=4"), 4),
    ],
)
def test_a_last_batch_that_a_norm_cannot_take(config: Compose, overrides: tuple[str, ...], left: int) -> None:
    cell = config(*overrides, f"data.train_size={88 + left}", "data.drop_last=false")
    with pytest.raises(RefusedError) as refusal:
        checked(cell)
    words = str(refusal.value)
    assert words.startswith(f"the last batch of an epoch holds {left} of the {88 + left} images: ")
    assert words.endswith("or set data.drop_last=true, or another data.train_size")
    checked(config(*overrides, f"data.train_size={88 + left}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("norm=batch_norm", "data.train_size=90"),
        ("norm=batch_norm", "data.train_size=88"),
        ("norm=group_norm", "data.train_size=89"),
        ("norm=sync_batch_norm", "data.train_size=91", "trainer.devices=2", "batch_size_per_device=4"),
        ("norm=batch_norm", "data.train_size=89", "trainer.limit_train_batches=11"),
        ("norm=batch_norm", "data.train_size=89", "trainer.limit_train_batches=0.5"),
    ],
    ids=str,
)
def test_a_last_batch_that_is_large_enough_or_never_reached(config: Compose, overrides: tuple[str, ...]) -> None:
    assert (8, 64, 1, 1) in checked(config(*overrides, "data.drop_last=false")).values() or "sync" in overrides[0]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(8), ({"0": 36}, 4)),
        (nn.SyncBatchNorm(8), ({"0": 36}, 4)),  # in one process
        (nn.GroupNorm(4, 8), ({"0": 18}, 1)),
        (nn.LayerNorm([8, 3, 3]), ({"0": 72}, 1)),
        (nn.RMSNorm([3, 3]), ({"0": 9}, 1)),
        (nn.InstanceNorm2d(8), ({"0": 9}, 1)),
        (nn.LocalResponseNorm(3), ({}, None)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_torchs_own_norms_are_counted(layer: nn.Module, expected: tuple[dict[str, int], int | None]) -> None:
    assert values_per_statistic(nn.Sequential(layer), {"0": (4, 8, 3, 3)}) == expected


def test_shapes_reach_torchs_own_norms_as_ours() -> None:
    model = nn.Sequential(nn.BatchNorm2d(8), normzoo.create("group_norm", 8))
    assert trace_shapes(model, torch.empty(4, 8, 3, 3)).shapes == dict.fromkeys("01", (4, 8, 3, 3))


def test_shapes_reach_a_norm_that_is_called_by_keyword() -> None:
    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](input=x)

    assert trace_shapes(Net(nn.BatchNorm2d(8)), torch.empty(4, 8, 3, 3)).shapes == {"0": (4, 8, 3, 3)}
