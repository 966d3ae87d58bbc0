"""The server that cells are forked from, as it can be started before Hydra and Lightning are imported here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from normzoo.sweep.fork_server import fork_server

# What a cell would import for itself; the first to unpickle what Hydra calls back, the last for all the rest.
PRELOAD = ("normzoo.commands.report_callback", "normzoo.sweep.preload_modules")
# The server computes nothing, and each cell says how many threads it has.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

_SHOWS = ("-h", "--h", "-c", "--cfg", "-i", "--info")  # options of Hydra's that run nothing


def cell_server() -> AbstractContextManager[Any]:
    """The server, which goes on where it runs already."""
    return fork_server(PRELOAD, ENVIRONMENT)


def wants_server(arguments: Sequence[str]) -> bool:
    """Whether `normzoo train` with these arguments sweeps on this machine, as far as can be told without Hydra."""
    runs_none = any(argument.startswith(("hydra/launcher=", "sweep.dry_run=", *_SHOWS)) for argument in arguments)
    return bool({"-m", "--multirun"} & set(arguments)) and not runs_none
