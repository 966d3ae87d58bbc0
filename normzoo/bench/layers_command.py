"""`normzoo bench layers`: its options, and what it prints and writes."""

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
    """The options of `normzoo bench layers`; sets `run_bench`, which is to be called with the parsed arguments."""
    shape = (32, 64, 28, 28)
    parser.add_argument("--norms", nargs="+", metavar="NORM", help="names or aliases; default: all")
    parser.add_argument("--shape", type=_shape, default=shape, metavar="N,C,H,W", help="default: 32,64,28,28")
    parser.add_argument(
        "--rounds", type=int, default=8, metavar="K", help="times each is measured at least; default: 8"
    )
    parser.add_argument("--compile", action="store_true", help="the norm under torch.compile too, some seconds each")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="of the processor; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.set_defaults(run_bench=run)


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


def _compile_ahead(chosen: argparse.Namespace) -> None:
    """All that is to be measured, with a line of progress on a terminal."""
    cases = layer_cases(chosen.norms, chosen.shape, chosen.rounds, chosen.device)
    for count, title in enumerate(compile_ahead(cases, chosen.threads), 1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[Kcompiled {count} of {len(cases)}: {title}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def run(chosen: argparse.Namespace) -> None:
    """Print the table line by line as it is measured."""
    if chosen.threads < 1:
        raise UserError(f"--threads is 1 or more; got {chosen.threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(chosen.threads)
    busy = load()  # before the compiling, which is work of its own
    try:
        if chosen.compile:
            _compile_ahead(chosen)
        rows = measure_layers(chosen.norms, chosen.shape, chosen.rounds, compile=chosen.compile, device=chosen.device)
        keep_freed_memory()
        where, found, taken = machine(chosen.device), list[LayerRow](), list[float | None]()
        print(heading(where, chosen.shape, chosen.rounds, chosen.compile))
        others = _others()
        for row in rows:
            found.append(row)
            taken.append(others.cores() if others else None)
            print(line(row, chosen.compile), flush=True)
            others = _others()
    finally:
        torch.set_num_threads(before)
    figures = [figure for row in found for figure in targets(row, chosen.device)]
    print("", *(figure.line() for figure in figures), summary(figures), sep="\n")
    disturbed = [row.norm for row, cores in zip(found, taken, strict=True) if cores is not None and cores > BUSY]
    if disturbed:
        print(f"others were at work while these were measured, do not trust their times: {', '.join(disturbed)}")
    elif None in taken and busy > BUSY:
        print(f"the machine was at work already (a load of {busy:.1f}): do not trust the times")
    if chosen.json is not None:
        write_json(
            chosen.json,
            {
                "machine": where,
                "load": busy,
                "date": datetime.date.today().isoformat(),
                "rounds": chosen.rounds,
                "rows": [
                    {**dataclasses.asdict(row), "cores_taken_by_others": cores}
                    for row, cores in zip(found, taken, strict=True)
                ],
                "targets": [figure.record() for figure in figures],
            },
        )
