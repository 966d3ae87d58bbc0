"""The server that cells are forked from, as it can be started before anything heavy is imported here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from normzoo.sweep.fork_server import fork_server

# What a cell would import for itself; the first to unpickle what Hydra calls back, the last for all the rest.
PRELOAD = ("normzoo.report.callback", "normzoo.training.warm")
# The server computes nothing, and each cell says how many threads it has.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def cell_server() -> AbstractContextManager[Any]:
    """The server, which goes on where it runs already."""
    return fork_server(PRELOAD, ENVIRONMENT)


def wants_server(arguments: Sequence[str]) -> bool:
    """Whether `normzoo train` with these arguments sweeps on this machine, as far as can be told without Hydra."""
    elsewhere = any(argument.startswith(("hydra/launcher=", "sweep.dry_run=")) for argument in arguments)
    return bool({"-m", "--multirun"} & set(arguments)) and not elsewhere
