"""Who gets which devices, and in what order."""

import itertools
import random
from collections.abc import Sequence

import pytest

from normzoo.sweep.devices import Lease, Leases, visible_gpus
from normzoo.training.config import Resources


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
        lent = [device for lease in self.running.values() for device in (*lease.gpus, *lease.cores)]
        assert len(lent) == len(set(lent)), "a device was lent twice"
        for number, lease in self.running.items():
            assert len(lease.gpus) == self.needs[number].gpus


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


@pytest.mark.parametrize("seed", range(20))
def test_no_cell_starves_in_any_mixture(seed: int) -> None:
    random.seed(seed)
    needs = [Resources(gpus=random.choice([0, 1, 1, 2, 4, 8]), cores=random.choice([1, 2, 9])) for _ in range(200)]
    machine = Machine(Leases([str(i) for i in range(8)], range(4)), needs)
    machine.start()
    while machine.running:
        machine.end(random.choice(list(machine.running)))
        machine.start()
    assert sorted(machine.started) == list(range(200))
    for number in range(200):
        kind = needs[number].gpus > 0
        before = machine.started[: machine.started.index(number)]
        overtakers = [other for other in before if other > number and (needs[other].gpus > 0) == kind]
        assert len(overtakers) <= (8 if kind else 4)


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
