"""Who gets which devices, and in what order."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from normzoo.errors import UserError
from normzoo.sweep.devices import Lease, Leases, cells_that_fit, check_cells_per_gpu, visible_gpus
from normzoo.sweep.local_launcher import _Run
from normzoo.training.config import Resources
from normzoo.training.gpu_memory import CELLS_PER_GPU, CUDA_CONTEXT_GIB, GpuMemory, fraction


class Machine:
    """Jobs on leased devices, without processes; a job ends when it is told to."""

    def __init__(self, leases: Leases, needs: Sequence[Resources]) -> None:
        self.leases, self.needs = leases, needs
        self.waiting = dict.fromkeys(range(len(needs)))
        self.running: dict[int, Lease] = {}
        self.started: list[int] = []

    def start(self) -> list[int]:
        """The jobs that start now."""
        now: list[int] = []
        while (chosen := self.leases.next((i, self.needs[i]) for i in self.waiting)) is not None:
            number, lease = chosen
            del self.waiting[number]
            self.running[number] = lease
            now.append(number)
        self.started += now
        self.check()
        return now

    def end(self, number: int) -> None:
        self.leases.give_back(self.running.pop(number))

    def check(self) -> None:
        cores = [core for lease in self.running.values() for core in lease.cores]
        assert len(cores) == len(set(cores)), "a core was lent twice"
        gpus = Counter(gpu for lease in self.running.values() for gpu in lease.gpus)
        assert all(count <= self.leases.cells_per_gpu for count in gpus.values()), "a GPU was lent too often"
        for number, lease in self.running.items():
            assert len(set(lease.gpus)) == len(lease.gpus) == self.needs[number].gpus


def eight(*gpus: int) -> Machine:
    return Machine(Leases([str(i) for i in range(8)], range(4)), [Resources(gpus=count) for count in gpus])


def test_eight_gpus_hold_eight_cells_of_one_or_two_of_four_or_a_mixture() -> None:
    assert len(eight(*[1] * 10).start()) == 8
    assert len(eight(*[4] * 3).start()) == 2
    assert eight(4, 1, 2, 1, 1).start() == [0, 1, 2, 3]
    assert eight(8, 1).start() == [0]


def test_each_cell_sees_its_own() -> None:
    machine = eight(4, 4)
    machine.start()
    assert [lease.gpus for lease in machine.running.values()] == [("0", "1", "2", "3"), ("4", "5", "6", "7")]
    machine.end(0)
    machine.waiting[0] = None
    machine.start()
    assert machine.running[0].gpus == ("0", "1", "2", "3")


def test_small_cells_fill_the_gap_before_a_big_one_but_do_not_keep_it_out_for_ever() -> None:
    machine = eight(4, 1, 8, *[1] * 40)
    # Two more places are left beside the first two: those behind the big one take them, and whatever becomes free.
    assert machine.start() == [0, 1, 3, 4, 5]
    overtakers = 3
    while machine.waiting:
        machine.end(min(machine.running))
        overtakers += len([number for number in machine.start() if number > 2 and 2 in machine.waiting])
    assert overtakers == 8
    assert machine.started.index(2) == 2 + 8


@pytest.mark.parametrize("cells_per_gpu", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_no_cell_starves_in_any_mixture(seed: int, cells_per_gpu: int) -> None:
    random.seed(seed)
    needs = [Resources(gpus=random.choice([0, 1, 1, 2, 4, 8]), cores=random.choice([1, 2, 9])) for _ in range(200)]
    machine = Machine(Leases([str(i) for i in range(8)], range(4), cells_per_gpu), needs)
    machine.start()
    while machine.running:
        machine.end(random.choice(list(machine.running)))
        machine.start()
    assert sorted(machine.started) == list(range(200))
    for number in range(200):
        kind = needs[number].gpus > 0
        before = machine.started[: machine.started.index(number)]
        overtakers = [other for other in before if other > number and (needs[other].gpus > 0) == kind]
        assert len(overtakers) <= (8 * cells_per_gpu if kind else 4)


def test_cells_share_gpus_spread_over_all_of_them() -> None:
    machine = Machine(Leases(["0", "1"], range(4), cells_per_gpu=2), [Resources(gpus=1)] * 5)
    assert machine.start() == [0, 1, 2, 3]
    assert [lease.gpus for lease in machine.running.values()] == [("0",), ("1",), ("0",), ("1",)]
    assert {lease.cells_per_gpu for lease in machine.running.values()} == {2}
    machine.end(1)
    assert machine.start() == [4]
    assert machine.running[4].gpus == ("1",)


def test_a_data_parallel_cell_never_gets_one_gpu_twice() -> None:
    machine = Machine(Leases(["0", "1"], range(4), cells_per_gpu=4), [Resources(gpus=2), Resources(gpus=1)])
    assert machine.start() == [0, 1]
    assert machine.running[0].gpus == ("0", "1")


def test_more_cells_share_a_gpu_once_the_memory_is_known_and_fewer_when_one_takes_more() -> None:
    leases = Leases(["0"], range(4))
    machine = Machine(leases, [Resources(gpus=1)] * 6)
    assert machine.start() == [0]
    machine.end(0)
    leases.cells_per_gpu = 3
    assert machine.start() == [1, 2, 3]
    leases.cells_per_gpu = 1
    machine.end(1)
    machine.end(2)
    assert leases.next([(4, Resources(gpus=1))]) is None  # 3 still runs
    machine.end(3)
    assert machine.start() == [4]


@pytest.mark.parametrize(
    ("peak_gib", "gpu_gib", "cores", "cells"),
    [(1.75, 24, 16, 6), (0.1, 80, 32, 16), (0.1, 80, 4, 4), (30, 24, 16, 1), (0.1, 80, 0, 1)],
)
def test_as_many_cells_share_a_gpu_as_twice_the_memory_and_the_cores_allow(
    peak_gib: float, gpu_gib: float, cores: int, cells: int
) -> None:
    assert cells_that_fit(peak_gib, gpu_gib, cores) == cells
    # And PyTorch's limits leave room for what CUDA takes beside them.
    assert cells * (fraction(cells, gpu_gib) * gpu_gib + CUDA_CONTEXT_GIB) <= gpu_gib * 1.001


@pytest.mark.parametrize("value", [0, -1, 0.5, "many", True, None])
def test_a_wrong_number_of_cells_per_gpu_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=f"hydra.launcher.cells_per_gpu={value} must be 1 or more, or auto"):
        check_cells_per_gpu(value)


def test_auto_shares_gpus_by_the_largest_cell_so_far() -> None:
    leases = Leases(["0", "1"], range(16))
    sweep: Any = SimpleNamespace(pool=SimpleNamespace(leases=leases), most_memory=0.0)
    chosen = []
    for peak in (None, 0.5, 0.1, 4.0, 30.0):
        _Run._share_gpus(sweep, {"memory_gib": 24.0} | ({} if peak is None else {"peak_memory_gib": peak}))
        chosen.append(leases.cells_per_gpu)
    assert chosen == [1, 8, 8, 2, 1]


@pytest.mark.parametrize("share", [1, 4])
def test_a_cell_limits_its_memory_to_its_share_and_records_what_it_took(
    monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    limits: list[float] = []
    monkeypatch.setenv(CELLS_PER_GPU, str(share))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=40 * 2**30))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda part, device: limits.append(part))
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 3 * 2**29)
    record: dict[str, dict[str, object]] = {"device": {"type": "cuda"}}
    memory, module = GpuMemory(record), SimpleNamespace(device=torch.device("cuda", 0))
    memory.on_fit_start(None, module)  # type: ignore[arg-type]
    memory.on_fit_end(None, module)  # type: ignore[arg-type]
    assert limits == ([] if share == 1 else [0.25 - 0.5 / 40])
    assert record["device"] == {"type": "cuda", "memory_gib": 40, "peak_memory_gib": 1.5}


def test_cells_on_cores_do_not_wait_for_gpus() -> None:
    leases = Leases(["0", "1"], range(2))
    machine = Machine(leases, [Resources(gpus=2), Resources(gpus=2), *[Resources(cores=1)] * 9])
    assert machine.start() == [0, 2, 3]
    for number in itertools.count(2):
        if number not in machine.running:
            break
        machine.end(number)
        machine.start()
    assert list(machine.running) == [0]  # and none of the nine waited for the cell that waits for GPUs


def test_cores_are_leased_and_a_cell_that_asks_for_too_many_runs_alone() -> None:
    machine = Machine(Leases([], [0, 2, 4, 6]), [Resources(cores=2), Resources(cores=1), Resources(cores=16)])
    assert machine.start() == [0, 1]
    assert [lease.cores for lease in machine.running.values()] == [(0, 2), (4,)]
    machine.end(0)
    assert machine.start() == []
    machine.end(1)
    assert machine.start() == [2]
    assert machine.running[2].cores == (0, 2, 4, 6)


def test_how_many_run_at_once() -> None:
    leases = Leases(["0", "1"], range(4))
    assert leases.at_once([Resources(gpus=1)] * 5) == 2
    assert leases.at_once([Resources(cores=2)] * 5) == 2
    assert leases.at_once([Resources(cores=9)] * 5) == 1
    assert leases.at_once([Resources(gpus=1), Resources(cores=1)]) == 2
    assert leases.at_once([]) == 0


@pytest.mark.parametrize(
    ("named", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("2, 5", 2, ["2", "5"]),
        ("GPU-1e2f,MIG-77", 2, ["GPU-1e2f", "MIG-77"]),
        ("1,-1,3", 1, ["1"]),  # the driver stops at what is no device
        ("", 0, []),
    ],
)
def test_the_gpus_that_the_user_has_chosen(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, names: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == names
