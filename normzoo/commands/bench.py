"""`normzoo bench`: measure what the norms cost, as ratios to the layers they would replace."""

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from normzoo.bench.compiled import compile_ahead
from normzoo.bench.layers import layer_cases, measure_layers
from normzoo.bench.measure import BUSY, LayerRow, keep_freed_memory, load, machine, write_json
from normzoo.bench.table import heading, line
from normzoo.bench.targets import summary, targets
from normzoo.errors import UserError

if TYPE_CHECKING:
    from normzoo.bench.other_load import OtherLoad

DESCRIPTION = """Measure time and saved memory of each norm in training, relative to the layer it would replace: the
torch kernel it is built on, timm's layer, or torch's batch norm where there is neither. A weight norm is measured as a
convolution with it, relative to one without. Norm and reference run in turn in one process; run nothing else meanwhile.
The report ends with each target and the measured value. With --compile, the norms are compiled first, one process per
core; the compiled code is cached, so an interrupted run continues.

  normzoo bench layers
  normzoo bench layers --norms group_norm evo_norm_s0 --shape 8,128,14,14 --compile"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subject `layers` and its options."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    layers = subjects.add_parser(
        "layers",
        help="time and saved memory of each norm relative to torch's or timm's",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shape = (32, 64, 28, 28)
    layers.add_argument("--norms", nargs="+", metavar="NORM", help="names or aliases; default: all")
    layers.add_argument("--shape", type=_shape, default=shape, metavar="N,C,H,W", help="default: 32,64,28,28")
    layers.add_argument("--rounds", type=int, default=8, metavar="K", help="minimum number of rounds; default: 8")
    layers.add_argument("--compile", action="store_true", help="measure under torch.compile too, some seconds each")
    layers.add_argument("--device", default="cpu", metavar="cpu|cuda")
    layers.add_argument("--threads", type=int, default=1, metavar="T", help="CPU threads; default: 1")
    layers.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a shape such as 32,64,28,28, got {text!r}") from None


def _other_load() -> "OtherLoad | None":
    """Start measuring the load of other processes; None if psutil, which comes with an extra, is missing."""
    try:
        from normzoo.bench.other_load import OtherLoad
    except ModuleNotFoundError:
        return None
    return OtherLoad()


def _compile_ahead(arguments: argparse.Namespace) -> None:
    """Compile all cases, with a progress line on a terminal."""
    cases = layer_cases(arguments.norms, arguments.shape, arguments.rounds, arguments.device)
    for count, title in enumerate(compile_ahead(cases, arguments.threads), 1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[Kcompiled {count} of {len(cases)}: {title}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _check_writable(file: Path) -> None:
    """Fail before measuring if the results cannot be written afterwards."""
    existed = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
        if not existed:
            file.unlink()
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another file for --json") from error


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table row by row, and print the targets.

    Raises:
        UserError: If an option is invalid, or the file of the results cannot be written.
    """
    if arguments.threads < 1:
        raise UserError(f"--threads must be at least 1, got {arguments.threads}")
    if arguments.json is not None:
        _check_writable(arguments.json)
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    busy = load()  # before compiling, which is load of our own
    try:
        if arguments.compile:
            _compile_ahead(arguments)
        rows = measure_layers(
            arguments.norms, arguments.shape, arguments.rounds, compile=arguments.compile, device=arguments.device
        )
        keep_freed_memory()
        where, found, taken = machine(arguments.device), list[LayerRow](), list[float | None]()
        print(heading(where, arguments.shape, arguments.rounds, arguments.compile))
        others = _other_load()
        for row in rows:
            found.append(row)
            taken.append(others.cores() if others else None)
            print(line(row, arguments.compile), flush=True)
            others = _other_load()
    finally:
        torch.set_num_threads(before)
    figures = [figure for row in found for figure in targets(row, arguments.device)]
    print("", *(figure.line() for figure in figures), summary(figures), sep="\n")
    disturbed = [row.norm for row, cores in zip(found, taken, strict=True) if cores is not None and cores > BUSY]
    if disturbed:
        print(f"warning: other processes were busy; do not trust the times of: {', '.join(disturbed)}")
    elif None in taken and busy > BUSY:
        print(f"warning: the machine was busy (load {busy:.1f}); do not trust the times")
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
