"""`normzoo claims`: run the experiments that test a claim, in one sweep, and judge them."""

import argparse
import difflib
import importlib.util
import shlex
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from normzoo.commands import train
from normzoo.errors import UserError, cannot_write
from normzoo.resume_command import COMMAND, hydra_quoted


@dataclass(frozen=True)
class Claim:
    """The `claim` block of an experiment, and the grids it runs."""

    name: str
    statement: str
    source: str
    full: Sequence[Mapping[str, Any]]
    quick: Sequence[Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options: which claims to run, and where to write."""
    parser.description = (
        "Test what papers and tutorials claim about normalization, in one sweep, and write claims.md into its folder: "
        "for each claim what was measured, a verdict computed from it, and a figure."
    )
    parser.epilog = (
        "On 2 cores of an AMD EPYC all claims take about 4 minutes with --quick, and 17 minutes in full; the time of a "
        "single one is at the top of its conf/experiment/NAME.yaml."
    )
    parser.add_argument("--quick", action="store_true", help="run small grids, with fewer cells and seeds")
    parser.add_argument("--only", metavar="CLAIM[,CLAIM]", help="run only these claims")
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="where to write; an unfinished folder is resumed")
    parser.add_argument("--list", action="store_true", help="list the claims, run nothing")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as in normzoo train, for every cell: seed=0,1"
    )


def run(chosen: argparse.Namespace) -> None:
    """Run the chosen claims, or list them.

    Raises:
        UserError: If a claim is unknown, or a package is missing.
    """
    claims = _chosen(chosen.only)
    if chosen.list:
        print(listing(claims, shutil.get_terminal_size().columns))
        return
    missing = [name for name in ("matplotlib",) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"normzoo claims needs {missing[0]}: pip install 'normzoo[sweep]'")
    odd = [override for override in chosen.overrides if "=" not in override and not override.startswith("~")]
    if odd:
        raise UserError(
            f"{odd[0]} is not an override of the form key=value; to choose a claim, use --only {shlex.quote(odd[0])}"
        )
    folder = chosen.dir or Path("runs") / f"claims_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    _check_writable(folder)
    train.run(arguments(claims, folder, quick=chosen.quick, overrides=chosen.overrides, typed=_typed(chosen)))


def arguments(
    claims: Sequence[Claim], folder: Path, *, quick: bool, overrides: Sequence[str] = (), typed: str = "normzoo claims"
) -> list[str]:
    """Return the arguments of `normzoo train` that run the grids of all claims as one sweep.

    Args:
        claims: The claims to run.
        folder: The folder of the sweep.
        quick: Whether to run the quick grids.
        overrides: Overrides for every cell.
        typed: The user's command, for messages about the sweep.
    """
    grids = [
        {"experiment": claim.name, **grid, "++claim.grids": "quick" if quick else "full"}
        for claim in claims
        for grid in (claim.quick if quick else claim.full)
    ]
    return [
        "-m",
        f"hydra.sweep.dir={hydra_quoted(str(folder))}",
        f"hydra.sweeper.grids=[{','.join(map(_mapping, grids))}]",
        f"+{COMMAND}={hydra_quoted(typed)}",
        *overrides,
    ]


def _typed(chosen: argparse.Namespace) -> str:
    options = [*(["--quick"] if chosen.quick else []), *(["--only", chosen.only] if chosen.only else [])]
    return shlex.join(["normzoo", "claims", *options, *chosen.overrides]).replace(
        "${", "\\${"
    )  # as it is: nothing for Hydra to resolve


def _check_writable(folder: Path) -> None:
    """Fail before anything runs, and name the option; leave nothing behind."""
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error, "--dir") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def read_claims() -> list[Claim]:
    """Return the claims among the installed experiments.

    Raises:
        UserError: If a claim's block is incomplete, or Hydra is not installed.
    """
    try:
        from omegaconf import OmegaConf
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo claims needs {error.name}: pip install 'normzoo[sweep]'") from error
    found = []
    for file in sorted(files("normzoo.conf").joinpath("experiment").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            content: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
            if set(content.get("claim") or ()) - {"grids"}:  # or it is another claim's, with grids of its own
                found.append(_claim(file.name, content))
    return found


def listing(claims: Sequence[Claim], width: int) -> str:
    """List names and statements, wrapped."""
    column = max(len(claim.name) for claim in claims) + 2
    return "\n".join(
        textwrap.fill(
            f"{claim.name:<{column}}{claim.statement} ({claim.source})", max(width, 40), subsequent_indent=" " * column
        )
        for claim in claims
    )


def _claim(file: str, content: Mapping[str, Any]) -> Claim:
    block, grids = content["claim"], content.get("hydra", {}).get("sweeper", {}).get("grids")
    absent = [key for key in ("name", "statement", "source", "quick") if not block.get(key)]
    if absent or not grids:
        what = f"claim.{absent[0]}" if absent else "hydra.sweeper.grids"
        raise UserError(f"conf/experiment/{file} has a claim block, but no {what}; a claim needs both text and grids")
    if file != f"{block['name']}.yaml":
        raise UserError(f"conf/experiment/{file} names its claim {block['name']}; use the name of the file")
    return Claim(block["name"], block["statement"], block["source"], grids, block["quick"])


def _chosen(only: str | None) -> list[Claim]:
    claims = {claim.name: claim for claim in read_claims()}
    names = list(claims) if only is None else [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in claims:
            near = difflib.get_close_matches(name, claims, n=3)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise UserError(f"unknown claim {name!r}; {meant}`normzoo claims --list` lists all")
        # Not by importing what judges it, which takes half a second.
        if not files("normzoo").joinpath("claims", f"{name}.py").is_file():
            raise UserError(f"conf/experiment/{name}.yaml has a claim block, but no normzoo/claims/{name}.py judges it")
    if not names:
        raise UserError("--only names no claim; `normzoo claims --list` lists all")
    return [claims[name] for name in dict.fromkeys(names)]


def _mapping(grid: Mapping[str, Any]) -> str:
    return "{" + ",".join(f"{key}:{_value(value)}" for key, value in grid.items()) + "}"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "'null'", True: "true", False: "false"}[value]
    text = hydra_quoted(str(value))
    # Without quotes Hydra would read a number where a choice of values stands.
    return text if text.startswith(("'", '"')) else f"'{text}'"
