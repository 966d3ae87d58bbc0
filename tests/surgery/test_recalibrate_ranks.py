"""Recalibration in two processes, each with batches of its own."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import normzoo
from normzoo.surgery.recalibrate import recalibrate
from tests.norms.processes import in_processes

pytestmark = pytest.mark.ddp


def share(rank: int) -> list[torch.Tensor]:
    """Two batches for each process, of unequal sizes and means."""
    generator = torch.Generator().manual_seed(rank)
    return [
        torch.randn(4 + rank, 3, 2, 2, generator=generator, dtype=torch.float64) + 5 * rank + step for step in range(2)
    ]


def build() -> nn.Sequential:
    instance, evo = (
        normzoo.create(n, 3, **o) for n, o in (("instance_norm", {"track_running_stats": True}), ("evo_norm_b0", {}))
    )
    return nn.Sequential(nn.BatchNorm2d(3), normzoo.create("sync_batch_norm", 3), instance, evo).double()


def recalibrated(rank: int, wrap: bool) -> dict[str, torch.Tensor]:
    model = build()
    recalibrate(DistributedDataParallel(model) if wrap else model, share(rank))
    return model.state_dict()


@pytest.mark.parametrize("wrap", [False, True])
def test_all_processes_get_the_statistics_of_all_batches(wrap, tmp_path):
    first, second = in_processes(2, tmp_path, recalibrated, wrap)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    everything = torch.cat([x for rank in range(2) for x in share(rank)])
    torch.testing.assert_close(first["0.running_mean"], everything.mean((0, 2, 3)))
    torch.testing.assert_close(first["0.running_var"], everything.var((0, 2, 3)))


def fails_on_one(rank: int) -> tuple[str, bool]:
    layer = nn.BatchNorm2d(3).double()

    def loader():
        yield share(rank)[0]
        if rank == 1:
            raise ValueError("broken file")

    try:
        recalibrate(layer, loader())
    except (ValueError, RuntimeError) as error:
        return str(error), bool(layer.running_mean.any())
    return "", False


def test_no_process_waits_for_one_that_fails(tmp_path):
    first, second = in_processes(2, tmp_path, fails_on_one)
    assert "process 1 has failed" in first[0]
    assert second[0] == "broken file"
    assert not first[1]
    assert not second[1]
