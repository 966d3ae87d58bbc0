"""`normzoo train`: hand the command line to Hydra; nothing heavy is imported before it runs."""

import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest

from normzoo._interrupt import handle_again
from normzoo.errors import UserError
from normzoo.sweep.preload import cell_server, wants_server


def run(arguments: Sequence[str]) -> None:
    """Hand the arguments of `normzoo train` to Hydra.

    Raises:
        UserError: a package that training needs is missing.
    """
    # Begun now, the server imports what cells need while this process imports what it needs itself.
    with cell_server() if wants_server(arguments) else nullcontext():
        _call_hydra(arguments)


def _call_hydra(arguments: Sequence[str]) -> None:
    try:
        import hydra
        import lightning  # noqa: F401
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo train needs {error.name}: pip install 'normzoo[sweep]'") from error

    from normzoo.sweep.hydra_errors import hydra_says
    from normzoo.sweep.hydra_task import train

    handle_again()  # only now: an import in C that is broken off may end as an error of any other kind
    _check_options(arguments)
    sys.argv = [sys.argv[0], *_overrides_first(arguments)]
    # Our presets of engines bear the names of the launchers they are for, and hold to what these take.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    with hydra_says():
        hydra.main(version_base="1.3", config_path="pkg://normzoo.conf", config_name="train")(train)()


def _check_options(arguments: Sequence[str]) -> None:
    """Refuse a `--key value` that is none of Hydra's own flags.

    Raises:
        UserError: Saying how it is written.
    """
    from hydra._internal.utils import get_args_parser

    flags = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and not any(known.startswith(flag) for known in flags):
            key = flag.removeprefix("--").replace("-", "_")
            if not equals:
                value = "<value>" if not following or following.startswith("-") or "=" in following else following
            written = f"{key}={value}" if value == "<value>" else shlex.quote(f"{key}={value}")
            raise UserError(f"{argument} is no option of normzoo train; what a cell is made of is written {written}")


def _overrides_first(arguments: Sequence[str]) -> list[str]:
    """The same command line, as Hydra's parser takes overrides that stand on both sides of a flag."""
    from hydra._internal.utils import get_args_parser

    parsed, others = get_args_parser().parse_known_args(arguments)
    overrides = [*parsed.overrides, *(one for one in others if not one.startswith("-"))]
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*overrides, *flags]
