"""A search for the lowest validation error by Optuna, which cells that cannot be or that die never end."""

import importlib.util
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from normzoo.results import read_results

Cli = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None
    or importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="needs normzoo[optuna]",
)

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "hydra.sweep.dir=s", "hydra/sweeper=optuna")


@pytest.fixture(autouse=True)
def _optuna_logs_to_no_closed_stream() -> Iterator[None]:
    """Its handler writes to the standard error of the test that imported it."""
    yield
    logging.getLogger("optuna").handlers.clear()


def test_a_search_of_which_every_cell_is_refused(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli(
        "train", "-m", *tiny, *SHORT, "norm=instance_norm", "norm.eps=choice(0.1,0.2)", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2", "hydra.job.chdir=true",
    )  # fmt: skip
    assert code == 2, out + err
    assert "every cell was refused" in err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_search_outlives_refused_and_impossible_cells_and_repeated_points(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    # Instance norm is refused, batch norm has no num_groups, and six trials of four points must repeat some.
    code, out, err = cli(
        "train", "-m", *tiny, *SHORT, "norm=group_norm,instance_norm,batch_norm", "+norm.num_groups=choice(1,2)",
        "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=8", "hydra.sweeper.sampler.seed=1",
    )  # fmt: skip
    assert code == 0, out + err
    assert "Traceback" not in out + err
    results, _ = read_results(tmp_path / "s")
    assert "refused" in {result.status for result in results}
    ok = {result.config["norm"]["num_groups"]: result for result in results if result.status == "ok"}
    assert set(ok) <= {1, 2}
    best = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())
    assert best["best_params"]["norm"] == "group_norm"
    assert best["best_value"] == min(result.metrics["val_error_running"] for result in ok.values())
    assert re.search(r"refused: .*norm=batch_norm", out), out
