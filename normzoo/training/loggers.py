"""Loggers besides a cell's own record; the name of each run tells norm, batch size, seed and cell."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from lightning.pytorch import loggers

from normzoo.errors import UserError

# What is needed besides Lightning: any of these modules, and the extra that installs one.
_NEEDS = {
    "normzoo.training.loggers.tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "normzoo.training.loggers.Wandb": (("wandb",), "wandb"),
    "normzoo.training.loggers.mlflow": (("mlflow",), "mlflow"),
}


def check_logger(logger: Mapping[str, Any]) -> None:
    """Check that a logger exists and its package is installed.

    Raises:
        UserError: If not, with how to install the package.
    """
    try:
        get_object(logger["_target_"]) if "_target_" in logger else None
    except Exception as error:  # as an import may raise
        raise UserError(f"logger._target_={logger['_target_']}: {str(error).splitlines()[0]}") from error
    modules, extra = _NEEDS.get(logger.get("_target_", ""), ((), ""))
    if modules and not any(find_spec(module) for module in modules):
        raise UserError(
            f"logger={logger.get('name')} needs the package {modules[0]}, which is not installed: "
            f"pip install 'normzoo[{extra}]', or choose logger=csv"
        )


def csv(run: str, folder: str, **options: Any) -> loggers.Logger:
    """Log to `csv/version_0/metrics.csv` in the cell's folder; a resumed cell adds the next version."""
    return loggers.CSVLogger(folder, name="csv", **options)


def tensorboard(run: str, folder: str, **options: Any) -> loggers.Logger:
    """Log events to the cell's folder; `tensorboard --logdir` of the sweep's folder shows all cells."""
    return loggers.TensorBoardLogger(folder, name="tensorboard", version=run, **options)


class Wandb(loggers.WandbLogger):
    """Log to a run of Weights & Biases, with files in the cell's folder, grouped by the name of the sweep's folder.

    The run's id is the cell's, so that a resumed cell resumes its run.

    Args:
        run: The run's name without the cell.
        folder: The cell's.
        options: Of Lightning's logger.
    """

    def __init__(self, run: str, folder: str, **options: Any) -> None:
        path = Path(folder)
        named = {"name": f"{run}-{path.name}", "id": path.name, "group": path.parent.name, "save_dir": folder}
        super().__init__(**{**named, **options})

    def finalize(self, status: str) -> None:
        """Close the run, since a cell's process ends without the hooks in which wandb would do it."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=int(status != "success"))


def mlflow(
    run: str, folder: str, tracking_uri: str | None = None, experiment_name: str | None = None, **options: Any
) -> loggers.Logger:
    """Log to a run of MLflow, in an experiment named after the sweep's folder; a resumed cell resumes its run.

    Args:
        run: The run's name without the cell.
        folder: The cell's.
        tracking_uri: Where the runs are kept; None for the environment's MLFLOW_TRACKING_URI, and without one for
            `mlflow.db` in the sweep's folder.
        experiment_name: The experiment's name; None for that of the sweep's folder.
        options: Of Lightning's logger.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    path = Path(folder).absolute()
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path.parent / 'mlflow.db'}"
    name = experiment_name or path.parent.name
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    try:
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    except MlflowException:  # another cell has created it meanwhile
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        experiment_id = experiment.experiment_id
    begun = client.search_runs([experiment_id], f"tags.cell = '{path.name}' and status = 'RUNNING'")
    return loggers.MLFlowLogger(
        name,
        run_name=f"{run}-{path.name}",
        tracking_uri=uri,
        tags={"cell": path.name},
        run_id=begun[0].info.run_id if begun else None,
        **options,
    )
