"""What users of Hydra type out of habit does what they expect, or says why not."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normzoo.errors import UserError
from normzoo.sweep import ray_cluster

Cli = Callable[..., tuple[int, str, str]]


def test_a_dry_run_of_one_cell_trains_nothing(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli("train", *tiny, "sweep.dry_run=true", "logger=csv", "hydra.run.dir=one")
    assert (code, out) == (0, "1 cell: to run; result in one; a dry run, nothing was trained\n"), err
    code, _, err = cli("train", *tiny, "sweep.dry_run=true", "norm=instance_norm")
    assert (code, "the cell cannot run" in err) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_each_of_several_experiments_is_planned_with_its_own_grids(cli: Cli) -> None:
    def planned(experiments: str) -> int:
        _, out, err = cli("train", "-m", f"experiment={experiments}", "sweep.dry_run=true")
        counted = re.search(r"(\d+) cells?: ", out)
        assert counted is not None, err
        return int(counted[1])

    assert planned("bn_algorithm,federated_batch_norm") == planned("bn_algorithm") + planned("federated_batch_norm")


def test_overrides_may_stand_on_both_sides_of_a_flag(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, out, err = cli("train", *tiny, "-m", "seed=0,1", "sweep.dry_run=true")
    assert code == 0, err
    assert "2 cells: 2 to run" in out


def test_a_sweep_without_its_block_has_the_defaults(cli: Cli, tiny: tuple[str, ...]) -> None:
    code, _, err = cli("train", "-m", *tiny, "~sweep", "batch_size_per_device=0")
    assert (code, err) == (2, "error: the cell cannot run: batch_size_per_device=0 must be a whole number, 1 or more\n")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nohost.invalid:6379", "auto", "foo"])
def test_an_address_without_a_ray_cluster_says_so_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("this process is connected to a cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=rf"\Ahydra\.launcher\.ray\.init\.address={address}: .*ray start --head"):
        ray_cluster.nodes({"address": address})
