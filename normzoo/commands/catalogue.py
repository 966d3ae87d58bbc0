"""`normzoo list` and `normzoo show`: what norms there are, and what is known of one."""

import argparse
import contextlib
import inspect
import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from normzoo.bench.figure import VERDICTS, told
from normzoo.errors import UserError
from normzoo.norm_info import Kind, NormInfo
from normzoo.registry import info, list_norms

# A fact, and what asks for its being so and for its not being so, each with its meaning.
FLAGS = (
    (
        "batch_dependent",
        ("--batch-dependent", "in training a sample's output depends on the rest of the batch"),
        ("--batch-independent", "a sample's output is that which it has alone"),
    ),
    (
        "state",
        ("--has-state", "training writes buffers, such as running statistics"),
        ("--no-state", "training writes nothing but parameters"),
    ),
    (
        "train_eval_differ",
        ("--train-eval-differ", "evaluation computes something else than training"),
        ("--train-eval-same", "evaluation computes what training does"),
    ),
    (
        "fused",
        ("--fused", "one torch kernel does the work"),
        ("--composite", "several kernels do the work"),
    ),
    (
        "includes_activation",
        ("--includes-activation", "norm and activation in one"),
        ("--no-activation", "a norm alone"),
    ),
)
COLUMNS = ("name", "averages over", "batch-dependent", "state", "activation", "paper")
FIGURES = Path("runs/bench_layers.json")
"""Where `normzoo show` looks for what `normzoo bench layers --json` has measured."""
SHIPPED = Path(__file__).parent / "bench" / "measured"
"""Where it looks if nothing has been measured here: such files of other machines, which come with the package."""
LEAST_PAPER = 16  # characters; a terminal with less room for the paper shows none


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `list` and `show`; each sets `run`, which is to be called with the parsed arguments."""
    every = commands.add_parser(
        "list",
        help="the norms, or those with certain facts",
        description="The norms, as a table; into a pipe one a line, tab-separated, without a header.",
    )
    for fact, (so, meaning), (not_so, contrary) in FLAGS:
        either = every.add_mutually_exclusive_group()
        either.add_argument(so, dest=fact, action="store_true", default=None, help=meaning)
        either.add_argument(not_so, dest=fact, action="store_false", default=None, help=contrary)
    every.add_argument(
        "--kind", choices=get_args(Kind), help="called with an input, with a condition too, or on weights"
    )
    every.add_argument("--rank", dest="ranks", type=int, metavar="N", help="takes inputs of N dimensions, all counted")
    every.add_argument("--json", action="store_true", help="all facts, for programs")
    every.set_defaults(run=_list)
    one = commands.add_parser("show", help="equation, facts, arguments and source of one norm")
    one.add_argument("name", help="or an alias, such as GN or nn.BatchNorm2d")
    one.add_argument("--bench", type=Path, metavar="FILE", help=f"of normzoo bench layers --json; default: {FIGURES}")
    one.set_defaults(run=_show)


def _list(chosen: argparse.Namespace) -> None:
    asked = {fact: getattr(chosen, fact) for fact in (*(fact for fact, *_ in FLAGS), "kind", "ranks")}
    with _warnings_on_a_line():
        names = list_norms(**{fact: value for fact, value in asked.items() if value is not None})
    norms = [info(name) for name in names]
    if chosen.json:
        print(json.dumps([as_json(norm) for norm in norms], indent=2, ensure_ascii=False))
    elif not norms:
        sys.stderr.write("no norm has all these facts\n")
    elif sys.stdout.isatty():
        print(table([COLUMNS, *map(_row, norms)], shutil.get_terminal_size().columns))
    else:
        print("\n".join("\t".join(_row(norm)) for norm in norms))


def _show(chosen: argparse.Namespace) -> None:
    with _warnings_on_a_line():
        norm = info(chosen.name)
    print("\n".join([describe(norm), "", "Measured:", *(f"  {line}" for line in measured(norm.name, chosen.bench))]))


@contextlib.contextmanager
def _warnings_on_a_line() -> Iterator[None]:
    """Without the line of code that Python adds: a plug-in that did not load is no fault of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        sys.stderr.write(f"warning: {warning.message}\n")


def _row(norm: NormInfo) -> tuple[str, ...]:
    facts = (norm.batch_dependent, bool(norm.state), norm.includes_activation)
    return (norm.name, norm.reduces_over or "-", *("yes" if fact else "no" for fact in facts), norm.paper or "-")


def table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns two spaces apart, the last as wide as the terminal leaves it.

    Where that is too little, columns are left out: the third to the last but one, from the right, then the last.
    """
    *widths, last = (max(map(len, column)) for column in zip(*rows, strict=True))

    def room() -> int:
        return width - sum(widths) - 2 * len(widths)

    while room() < min(last, LEAST_PAPER) and len(widths) > 2:
        widths.pop()
    last = min(last, room()) if room() >= min(last, LEAST_PAPER) else 0
    lines = []
    for row in rows:
        padded = [cell.ljust(column) for cell, column in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, _shortened(row[-1], last)] if last else padded).rstrip())
    return "\n".join(_shortened(line, max(width, 1)) for line in lines)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def describe(norm: NormInfo) -> str:
    """All that is known of one norm: its docstring with the equation, its facts, names, arguments and file."""
    yes_no = {True: "yes", False: "no"}
    arguments = [
        name if default is inspect.Parameter.empty else f"{name}={default!r}"
        for name, default in norm.arguments.items()
    ]
    facts = {
        "kind": norm.kind,
        "averages over": norm.reduces_over or "-",
        "batch-dependent": yes_no[norm.batch_dependent],
        "train and eval differ": yes_no[norm.train_eval_differ],
        "state": ", ".join(norm.state) or "none",
        "fewest values": str(norm.minimum_count) if norm.minimum_count > 1 else "any number",
        "input dimensions": ", ".join(map(str, norm.ranks)),
        "one fused kernel": yes_no[norm.fused],
        "includes activation": yes_no[norm.includes_activation],
        "does not work with": ", ".join(norm.unsupported) or "-",
        "loads checkpoints of": ", ".join(norm.peers) or "itself alone",
        "paper": norm.paper or "-",
        "aliases": ", ".join(_alias(alias, norm.alias_options.get(alias, {})) for alias in norm.aliases) or "none",
        "arguments": ", ".join(arguments) or "none",
        "registered by": norm.owner,
        "file": ":".join(map(str, source(norm))) or "unknown",
    }
    longest = max(map(len, facts))
    lines = [f"  {title.ljust(longest)}  {value}" for title, value in facts.items()]
    return "\n".join([norm.name, "", inspect.getdoc(norm.build) or "It has no docstring.", "", "Facts:", *lines])


def _alias(alias: str, options: Mapping[str, Any]) -> str:
    return f"{alias} ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else alias


def measured(name: str, file: Path | None = None) -> list[str]:
    """The figures of a norm, a line for each input it was measured on, or how to get some.

    Raises:
        UserError: If the file that is asked for is not there, or is not one of `normzoo bench layers --json`.
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
    verdict = VERDICTS[figure["reached"]] + (f": {told(found, target, at_most)}" if found is not None else "")
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


def as_json(norm: NormInfo) -> dict[str, Any]:
    """Every fact of a norm in types that JSON has; an argument that must be given has no default."""
    file, line = source(norm) or (None, None)
    arguments = {
        name: {} if default is inspect.Parameter.empty else {"default": _plain(default)}
        for name, default in norm.arguments.items()
    }
    facts = {fact: value for fact, value in vars(norm).items() if fact != "build"}
    return {**facts, "summary": norm.summary, "arguments": arguments, "file": file, "line": line}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def source(norm: NormInfo) -> tuple[str, int] | tuple[()]:
    """File and line that define a norm; nothing where Python keeps none, as for a class typed into a prompt."""
    try:
        build = inspect.unwrap(norm.build)
        return inspect.getsourcefile(build) or inspect.getfile(build), inspect.getsourcelines(build)[1]
    except (OSError, TypeError):
        return ()
