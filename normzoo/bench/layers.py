"""`normzoo bench layers`: what each norm costs in time and memory, as a ratio to what it would replace."""

import argparse
import dataclasses
import datetime
import inspect
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normzoo.bench.measure import BUSY, Ratio, Step, load, machine, time_in_turn, write_json
from normzoo.bench.references import BATCH_NORM, CONVOLUTION, NEEDED, REFERENCES, TOKENS, Reference
from normzoo.bench.table import heading, line
from normzoo.bench.targets import summary, targets
from normzoo.errors import UserError
from normzoo.facts import NormInfo
from normzoo.registry import info, list_norms

if TYPE_CHECKING:
    from normzoo.bench.others import Others

DESCRIPTION = """Time and saved memory of each norm in training, as ratios to what it would replace: the torch kernel
that it is made of, timm's layer, or torch's batch norm where there is none; of a convolution with a norm of its weight,
to one without. They run in turn in one process. At the end each target with what was measured; nothing else should run
meanwhile.

  normzoo bench layers
  normzoo bench layers --norms group_norm evo_norm_s0 --shape 8,128,14,14 --compile"""


@dataclass(frozen=True)
class LayerRow:
    """What was measured of one norm; a ratio is None where there was nothing to compare with."""

    norm: str
    against: str
    shape: tuple[int, ...]
    milliseconds: tuple[float, float] | None = None
    """Median of forward, and of forward and backward."""
    forward: Ratio | None = None
    both: Ratio | None = None
    saved: float | None = None
    """Bytes kept for the backward by the bytes of the input."""
    saved_against: float | None = None
    compiled_forward: Ratio | None = None
    """Of the compiled norm to what the norm is compared with, which is not compiled."""
    compiled_both: Ratio | None = None
    compiled_saved: float | None = None
    note: str = ""


def measure_layers(
    norms: Sequence[str] | None = None,
    shape: Sequence[int] = (32, 64, 28, 28),
    rounds: int = 15,
    *,
    compile: bool = False,
    device: str = "cpu",
) -> Iterator[LayerRow]:
    """Measure norms, one row each as soon as it is there, and for tokens too where torch has a layer for them.

    Args:
        norms: Names or aliases; None for all that are registered.
        shape: Of the input, `(N, C, *)`.
        rounds: How often each is measured.
        compile: Whether to measure the norm under torch.compile as well.
        device: Where to run.

    Raises:
        UserError: If a norm is not known, a size is not positive, or there is no such device.
    """
    chosen = [info(name) for name in (list_norms() if norms is None else norms)]
    shape = tuple(shape)
    if len(shape) < 2 or min(shape) < 1 or rounds < 1:
        raise UserError(f"a shape is N, C and positions, 1 or more, as are rounds; got {shape} and {rounds} rounds")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device} is asked for, but torch finds no CUDA device; leave it out to run on the CPU")
    cases = [(norm, tokens) for norm in chosen for tokens in (False, True)[: 1 + (norm.name in TOKENS)]]
    return (_measure(norm, shape, rounds, compile, device, tokens) for norm, tokens in cases)


def _measure(norm: NormInfo, shape: tuple[int, ...], rounds: int, compile: bool, device: str, tokens: bool) -> LayerRow:
    reference = _reference(norm, tokens)
    channels = shape[1]
    if tokens:
        shape = (shape[0], math.prod(shape[2:]), channels)
    row = LayerRow(f"{norm.name}, tokens" if tokens else norm.name, reference.title, shape, note=reference.missing)
    x = torch.randn(shape, device=device).requires_grad_()
    try:
        step = _step(norm, channels, x, {"channel_dim": -1} if tokens else {})
        step(torch.randn_like(x))
    except (UserError, RuntimeError, TypeError) as error:
        return dataclasses.replace(row, note=f"left out: {_first_line(error)}")
    steps = {"norm": step}
    if not reference.missing:
        other = Step.of(reference.build(channels).to(device), x)
        try:
            other(torch.randn_like(x))
            steps["reference"] = other
        except (RuntimeError, ValueError) as error:  # of this shape, such as BatchNorm2d without positions
            row = dataclasses.replace(row, note=f"not compared: {_first_line(error)}")
    if compile:
        torch._dynamo.reset()
        steps["compiled"] = dataclasses.replace(step, layer=torch.compile(step.layer, fullgraph=True))
        try:
            steps["compiled"](torch.randn_like(x))
        except Exception as error:  # of the compiler, or for want of one
            del steps["compiled"]
            row = dataclasses.replace(row, note=f"not compiled: {_first_line(error)}")
    return _filled(row, steps, rounds)


def _filled(row: LayerRow, steps: dict[str, Step], rounds: int) -> LayerRow:
    times = time_in_turn(steps, rounds)
    saved = {name: step.saved_bytes() / step.inputs[0].nbytes for name, step in steps.items()}

    def ratio(name: str, part: str) -> Ratio | None:
        if name not in times or "reference" not in times:
            return None
        return Ratio.of(getattr(times[name], part), getattr(times["reference"], part))

    norm = times["norm"]
    return dataclasses.replace(
        row,
        milliseconds=(1e3 * statistics.median(norm.forward), 1e3 * statistics.median(norm.both)),
        forward=ratio("norm", "forward"),
        both=ratio("norm", "both"),
        saved=saved["norm"],
        saved_against=saved.get("reference"),
        compiled_forward=ratio("compiled", "forward"),
        compiled_both=ratio("compiled", "both"),
        compiled_saved=saved.get("compiled"),
    )


def _reference(norm: NormInfo, tokens: bool) -> Reference:
    if tokens:
        return TOKENS[norm.name]
    return CONVOLUTION if norm.kind == "weight" else REFERENCES.get(norm.name, BATCH_NORM)


def _step(norm: NormInfo, channels: int, x: Tensor, keywords: dict[str, int]) -> Step:
    needed = {key: NEEDED.get(key) for key, default in norm.arguments.items() if default is inspect.Parameter.empty}
    if None in needed.values():
        raise UserError(f"cannot be built without {', '.join(needed)}")
    if norm.kind == "weight":
        return Step.of(norm.build(CONVOLUTION.build(channels), **needed).to(x.device), x)
    layer = norm.build(channels, **needed, **keywords).to(x.device)
    if norm.kind == "conditional":
        return Step.of(layer, x, layer.example_condition(x))  # type: ignore[operator]
    return Step.of(layer, x)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `normzoo bench layers`; sets `run_bench`, which is to be called with the parsed arguments."""
    shape = (32, 64, 28, 28)
    parser.add_argument("--norms", nargs="+", metavar="NORM", help="names or aliases; default: all")
    parser.add_argument("--shape", type=_shape, default=shape, metavar="N,C,H,W", help="default: 32,64,28,28")
    parser.add_argument("--rounds", type=int, default=15, metavar="K", help="times each is measured; default: 15")
    parser.add_argument("--compile", action="store_true", help="the norm under torch.compile too; some seconds each")
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


def run(chosen: argparse.Namespace) -> None:
    """Print the table line by line as it is measured."""
    if chosen.threads < 1:
        raise UserError(f"--threads is 1 or more; got {chosen.threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(chosen.threads)
    try:
        rows = measure_layers(chosen.norms, chosen.shape, chosen.rounds, compile=chosen.compile, device=chosen.device)
        where, busy, found, taken = machine(chosen.device), load(), list[LayerRow](), list[float | None]()
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
