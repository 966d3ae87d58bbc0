"""Measuring instruments: what a norm costs, as a ratio to what it would replace.

`normzoo bench layers` on the command line; `measure_layers`, `time_in_turn` and `saved_bytes` from Python.
"""

import argparse
from collections.abc import Sequence

from normzoo.bench import layers_command
from normzoo.bench.figure import Figure
from normzoo.bench.layers import measure_layers
from normzoo.bench.measure import Step, Times, machine, saved_bytes, time_in_turn
from normzoo.bench.row import LayerRow
from normzoo.bench.targets import targets
from normzoo.errors import UserError, exit_with

__all__ = [
    "Figure",
    "LayerRow",
    "Step",
    "Times",
    "add_arguments",
    "machine",
    "main",
    "measure_layers",
    "run",
    "saved_bytes",
    "targets",
    "time_in_turn",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be measured to the parser of `normzoo bench`; each sets `run_bench`, which `run` calls."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    layers_command.add_arguments(
        subjects.add_parser(
            "layers",
            help="time and saved memory of each norm against torch's or timm's",
            description=layers_command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def run(chosen: argparse.Namespace) -> None:
    """Measure what the parsed arguments ask for, and print it."""
    chosen.run_bench(chosen)


def main(argv: Sequence[str] | None = None) -> None:
    """`normzoo bench` on its own: exit code 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="normzoo bench")
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except UserError as error:
        exit_with(error)
