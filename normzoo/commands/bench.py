"""`normzoo bench`: what the norms cost, as ratios measured here and now."""

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from normzoo.bench.compiled import compile_ahead
from normzoo.bench.layers import layer_cases, measure_layers
from normzoo.bench.measure import BUSY, keep_freed_memory, load, machine, write_json
from normzoo.bench.row import LayerRow
from normzoo.bench.table import heading, line
from normzoo.bench.targets import summary, targets
from normzoo.errors import UserError

if TYPE_CHECKING:
    from normzoo.bench.others import Others

DESCRIPTION = """Time and saved memory of each norm in training, as ratios to what it would replace: the torch kernel
that it is made of, timm's layer, or torch's batch norm where there is none; of a convolution with a norm of its weight,
to one without. They run in turn in one process. At the end each target with what was measured; nothing else should run
meanwhile. With --compile the norms are compiled first, in a process on each core; a run that was cut short finds again
what it had compiled.

  normzoo bench layers
  normzoo bench layers --norms group_norm evo_norm_s0 --shape 8,128,14,14 --compile"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `layers` and its options."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    layers = subjects.add_parser(
        "layers",
        help="time and saved memory of each norm against torch's or timm's",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shape = (32, 64, 28, 28)
    layers.add_argument("--norms", nargs="+", metavar="NORM", help="names or aliases; default: all")
    layers.add_argument("--shape", type=_shape, default=shape, metavar="N,C,H,W", help="default: 32,64,28,28")
    layers.add_argument(
        "--rounds", type=int, default=8, metavar="K", help="times each is measured at least; default: 8"
    )
    layers.add_argument("--compile", action="store_true", help="the norm under torch.compile too, some seconds each")
    layers.add_argument("--device", default="cpu", metavar="cpu|cuda")
    layers.add_argument("--threads", type=int, default=1, metavar="T", help="of the processor; default: 1")
    layers.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a shape is numbers and commas, such as 32,64,28,28; got {text!r}") from None


def _others() -> "Others | None":
    """What others take from now on; None without psutil, which comes with an extra."""
    try:
        from normzoo.bench.others import Others
    except ModuleNotFoundError:
        return None
    return Others()


def _compile_ahead(arguments: argparse.Namespace) -> None:
    """All that is to be measured, with a line of progress on a terminal."""
    cases = layer_cases(arguments.norms, arguments.shape, arguments.rounds, arguments.device)
    for count, title in enumerate(compile_ahead(cases, arguments.threads), 1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[Kcompiled {count} of {len(cases)}: {title}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def run(arguments: argparse.Namespace) -> None:
    """Print the table line by line as it is measured, and the targets."""
    if arguments.threads < 1:
        raise UserError(f"--threads is 1 or more; got {arguments.threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    busy = load()  # before the compiling, which is work of its own
    try:
        if arguments.compile:
            _compile_ahead(arguments)
        rows = measure_layers(
            arguments.norms, arguments.shape, arguments.rounds, compile=arguments.compile, device=arguments.device
        )
        keep_freed_memory()
        where, found, taken = machine(arguments.device), list[LayerRow](), list[float | None]()
        print(heading(where, arguments.shape, arguments.rounds, arguments.compile))
        others = _others()
        for row in rows:
            found.append(row)
            taken.append(others.cores() if others else None)
            print(line(row, arguments.compile), flush=True)
            others = _others()
    finally:
        torch.set_num_threads(before)
    figures = [figure for row in found for figure in targets(row, arguments.device)]
    print("", *(figure.line() for figure in figures), summary(figures), sep="\n")
    disturbed = [row.norm for row, cores in zip(found, taken, strict=True) if cores is not None and cores > BUSY]
    if disturbed:
        print(f"others were at work while these were measured, do not trust their times: {', '.join(disturbed)}")
    elif None in taken and busy > BUSY:
        print(f"the machine was at work already (a load of {busy:.1f}): do not trust the times")
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "machine": where,
                "load": busy,
                "date": datetime.date.today().isoformat(),
                "rounds": arguments.rounds,
                "rows": [
                    {**dataclasses.asdict(row), "cores_taken_by_others": cores}
                    for row, cores in zip(found, taken, strict=True)
                ],
                "targets": [figure.record() for figure in figures],
            },
        )
