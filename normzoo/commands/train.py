"""`normzoo train`: hand the command line to Hydra; nothing heavy is imported before it runs."""

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice, zip_longest
from pathlib import Path

from normzoo._interrupt import handle_again
from normzoo.errors import UserError, exit_with
from normzoo.resume_command import hydra_quoted
from normzoo.sweep.fork_server import fork_server, wants_server
from normzoo.text import printable

# Hydra's flags: those without a value, and those with one.
SWITCHES = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
            "--shell-completion", "-sc", "--info", "-i")  # fmt: skip
TAKING = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun")  # fmt: skip


def run(arguments: Sequence[str]) -> None:
    """Hand the arguments of `normzoo train` to Hydra.

    Raises:
        UserError: If a package is missing, or an option is unknown.
    """
    # Started now, the server imports what cells need while this process imports what it needs itself; started before
    # Hydra's switch is set, it does not pass the switch to the cells.
    with fork_server() if wants_server(arguments) else nullcontext(), _hydra_raises() as in_full:
        _call_hydra(arguments, in_full)


@contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Have Hydra raise its errors instead of printing them and exiting; yield whether the user wants them in full."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield before == "1"
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _call_hydra(arguments: Sequence[str], in_full: bool) -> None:
    try:
        import hydra
        import lightning  # noqa: F401
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo train needs {error.name}: pip install 'normzoo[sweep]'") from error

    from normzoo.sweep.hydra_errors import user_error
    from normzoo.sweep.hydra_task import train

    handle_again()  # only now: an interrupted import of C code may fail with any other error
    _check_options(arguments)
    overrides, flags = _sorted(arguments)
    sys.argv = [sys.argv[0], *overrides, *flags]
    # Our launcher presets have the names of the launchers they configure, and match their schemas.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    try:
        hydra.main(version_base="1.3", config_path="pkg://normzoo.conf", config_name="train")(train)()
    except Exception as error:
        if not in_full and (said := user_error(error, [*overrides, *_search_path(flags)])) is not None:
            exit_with(said)
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)


def _search_path(flags: Sequence[str]) -> list[str]:
    """Return `--config-dir` as an override."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, equals, value = flag.partition("=")
        if name == "-cd" or (len(name) > len("--config-") and "--config-dir".startswith(name)):
            folder = Path(value if equals else following).absolute()
            return [f"hydra.searchpath=[{hydra_quoted(f'file://{folder}')}]"]
    return []


def _check_options(arguments: Sequence[str]) -> None:
    """Reject a `--key value` that is not an option of Hydra.

    Raises:
        UserError: If there is one; the message shows the override.
    """
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        unknown = flag.startswith("--") and not any(known.startswith(flag) for known in (*SWITCHES, *TAKING))
        if unknown or (flag.startswith("-") and not argument.isprintable()):  # which argparse would print as it is
            key = flag.lstrip("-").replace("-", "_")
            if not equals:
                value = "<value>" if not following or following.startswith("-") or "=" in following else following
            written = f"{key}={value}" if value == "<value>" else shlex.quote(f"{key}={value}")
            raise UserError(f"unknown option {argument} of normzoo train; write an override as {written}")


def _sorted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides and flags, in any order; Hydra's parser takes no override after a flag."""
    overrides: list[str] = []
    flags: list[str] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in TAKING or (len(word) > 2 and any(flag.startswith(word) for flag in TAKING if flag.startswith("--"))):
            flags.extend(islice(words, 1))
    return overrides, flags
