"""Where Hydra finds the launchers and the sweeper; every Hydra program imports this, so it imports nothing heavy."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OwnLaunchers(SearchPathPlugin):
    """Adds our presets of Hydra's launchers, which have the same names, where our own program is swept.

    Any other program, even with `pkg://normzoo.conf` on its search path, keeps Hydra's.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """As Hydra calls it."""
        if any(entry.provider == "main" and entry.path == "pkg://normzoo.conf" for entry in search_path.get_path()):
            search_path.append("normzoo", f"pkg://{__name__}.conf")


class CellLauncher(Launcher):
    """Plans a sweep's cells, and leaves it to its subclasses to run them."""

    module: str  # whose `launch` runs them
    planned: Callable[[Sequence[Any]], object] = staticmethod(lambda cells: None)  # told of the cells before they run
    devices_here = True  # whether the cells train on the devices of this machine

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra calls it."""
        from normzoo.errors import UserError, exit_with

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            returned: Sequence[JobReturn] = import_module(self.module).launch(
                self, [list(overrides) for overrides in job_overrides], initial_job_idx
            )
        except UserError as error:
            exit_with(error)  # past Hydra, which would print a traceback
        return returned


class NormzooLauncher(CellLauncher):
    """Runs each cell in a process of its own, `n_jobs` at a time; see `normzoo.sweep.local_launcher`."""

    module = "normzoo.sweep.local_launcher"

    def __init__(self, n_jobs: int | None = None, cells_per_gpu: int | str = 1) -> None:
        self.n_jobs, self.cells_per_gpu = n_jobs, cells_per_gpu


class EngineLauncher(CellLauncher):
    """Hands cells to Hydra's launcher for an engine; see `normzoo.sweep.remote_launcher`.

    It takes the options of that launcher: Hydra validates a launcher's configuration by what is known under its name.
    """

    module = "normzoo.sweep.remote_launcher"
    engine: str  # the class of that launcher
    extra: str  # what to install for it

    def __init__(self, **options: Any) -> None:
        self.options = options


class JoblibLauncher(EngineLauncher):
    """Runs cells on this machine, in joblib's processes."""

    engine, extra = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "joblib"


class SubmititLocalLauncher(EngineLauncher):
    """Runs cells on this machine as submitit would on a cluster, to try out what is meant for one."""

    engine, extra = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher", "slurm"


class SubmititSlurmLauncher(EngineLauncher):
    """Runs cells as jobs of a Slurm cluster."""

    engine, extra = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", "slurm"
    devices_here = False


class RayLauncher(EngineLauncher):
    """Runs cells as tasks of a Ray cluster, which lends them its GPUs."""

    engine, extra = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", "ray"
    devices_here = False


class NormzooSweeper(BasicSweeper):
    """Extends Hydra's grid sweeper to a list of grids; see `normzoo.sweep.sweeper`."""

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None, grids: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__(max_batch_size, params)
        self.grids = grids

    def sweep(self, arguments: list[str]) -> Any:
        """As Hydra calls it."""
        from normzoo.sweep.sweeper import sweep

        return sweep(self, arguments)


class OptunaSweeper(Sweeper):
    """Searches with Optuna, by the options of `hydra/sweeper=optuna`; see `normzoo.sweep.search`."""

    def __init__(
        self,
        sampler: Any,
        direction: Any,
        storage: str | None,
        study_name: str | None,
        n_trials: int,
        n_jobs: int,
        params: dict[str, str] | None,
        custom_search_space: str | None,
        **unread: Any,
    ) -> None:
        self.sampler, self.storage, self.study_name = sampler, storage, study_name
        self.direction, self.n_trials, self.n_jobs = getattr(direction, "name", direction), n_trials, n_jobs
        self.params, self.custom_search_space, self.unread = params, custom_search_space, unread
        self.points: list[dict[str, Any]] = []  # of a grid

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        self.hydra_context: HydraContext | None = hydra_context
        self.config: Any = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """As Hydra calls it."""
        from normzoo.sweep.search import search

        return search(self, arguments)
