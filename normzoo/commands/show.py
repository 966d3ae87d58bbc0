"""`normzoo show`: print all about one norm."""

import argparse
import contextlib
import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from normzoo import atlas, bench
from normzoo.atlas.facts import facts
from normzoo.bench.measurement import VERDICTS, rounded
from normzoo.errors import UserError
from normzoo.norm_info import NormInfo
from normzoo.registry import info

FIGURES = Path("runs/bench_layers.json")
"""The results of `normzoo bench layers --json` that `normzoo show` prints."""
SHIPPED = Path(bench.__file__).parent / "measured"
"""Results of other machines, which it prints if nothing was measured here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the norm, and the file of its benchmark results."""
    parser.add_argument("name", help="a norm or an alias, such as GN or nn.BatchNorm2d")
    parser.add_argument(
        "--bench", type=Path, metavar="FILE", help=f"results of normzoo bench layers --json; default: {FIGURES}"
    )
    parser.add_argument("--html", action="store_true", help="write the norm's card of normzoo atlas to NAME.html")


def run(arguments: argparse.Namespace) -> None:
    """Print all facts about a norm, and its measured cost."""
    with warnings_on_a_line():
        norm = info(arguments.name)
    if arguments.html:
        atlas.write(f"{norm.name}.html", [norm])
        return
    lines = [f"  {line}" for line in measured(norm.name, arguments.bench)]
    print("\n".join([describe(norm), "", "Measured:", *lines]))


@contextlib.contextmanager
def warnings_on_a_line() -> Iterator[None]:
    """Print warnings without a line of code: it has nothing to do with a plug-in that did not load."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        sys.stderr.write(f"warning: {warning.message}\n")


def describe(norm: NormInfo) -> str:
    """Describe a norm: docstring with equation, facts, names, arguments and file."""
    stated = facts(norm)
    longest = max(map(len, stated))
    lines = [f"  {title.ljust(longest)}  {value}" for title, value in stated.items()]
    return "\n".join([norm.name, "", inspect.getdoc(norm.build) or "It has no docstring.", "", "Facts:", *lines])


def measured(name: str, file: Path | None = None) -> list[str]:
    """Return the benchmark results of a norm as lines, or how to get some.

    Raises:
        UserError: If the chosen file is missing, or does not come from `normzoo bench layers --json`.
    """
    if file is not None or FIGURES.exists():
        return _measured_in(file or FIGURES, name)
    shipped = [line for each in sorted(SHIPPED.glob("*.json")) for line in _measured_in(each, name)]
    here = f"to measure all norms here: normzoo bench layers --json {FIGURES}"
    return [*shipped, here] if shipped else [f"nothing yet; {here}"]


def _measured_in(file: Path, name: str) -> list[str]:
    try:
        figures = json.loads(file.read_bytes())
        where = "{device}, {threads} of {cores} threads, torch {torch}".format(**figures["machine"])
        rows = [row for row in figures["rows"] if row["norm"].partition(",")[0] == name]
        targets = [figure for figure in figures["targets"] if figure["name"].partition(",")[0] == name]
        lines = [*(line for row in rows for line in _figures(row)), *map(_target, targets)]
        date = figures["date"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds something else"
        raise UserError(f"no figures in {file}: {why}; --bench takes what normzoo bench layers --json wrote") from error
    if not lines:
        return [f"not in {file}; normzoo bench layers --norms {name}"]
    return [f"on {where}, {date}, in {file}", *lines]


def _target(figure: Mapping[str, Any]) -> str:
    found, target, at_most = figure["median"], figure["target"], figure["at_most"]
    verdict = VERDICTS[figure["reached"]] + (f": {rounded(found, target, at_most)}" if found is not None else "")
    return f"target: {figure['name']} {'≤' if at_most else '≥'} {target:g} {figure['unit']}, {verdict}"


def _figures(row: Mapping[str, Any]) -> list[str]:
    titles = {
        "forward": "forward",
        "both": "with backward",
        "compiled_forward": "compiled",
        "compiled_both": "compiled with backward",
    }
    ratios = [
        "{} {median:.2f} ({low:.2f}-{high:.2f})".format(title, **row[key])
        for key, title in titles.items()
        if row[key] is not None
    ]
    lines = [f"{row['norm']}, input {'×'.join(map(str, row['shape']))}"]
    if row["milliseconds"] is not None:
        lines.append("  {:.3g} ms forward, {:.3g} ms with backward".format(*row["milliseconds"]))
    if ratios:
        lines.append(f"  time by that of {row['against']}: {', '.join(ratios)}")
    if row["saved"] is not None:
        other = f", {row['against']} {row['saved_against']:.2f}" if row["saved_against"] is not None else ""
        lines.append(f"  bytes kept for the backward by those of the input: {row['saved']:.2f}{other}")
    return [*lines, *([f"  {row['note']}"] if row["note"] else [])]
