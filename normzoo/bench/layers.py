"""What each norm costs in time and memory, as a ratio to what it would replace."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from normzoo.bench.cases import Case, cases
from normzoo.bench.compiled import compiled
from normzoo.bench.measure import Ratio, Step, Times, time_in_turn
from normzoo.bench.row import LayerRow
from normzoo.bench.targets import timed
from normzoo.errors import UserError
from normzoo.registry import list_norms

MOST = 20  # times the rounds that are asked for, where it is not plain whether a target is reached


def measure_layers(
    norms: Sequence[str] | None = None,
    shape: Sequence[int] = (32, 64, 28, 28),
    rounds: int = 8,
    *,
    compile: bool = False,
    device: str = "cpu",
) -> Iterator[LayerRow]:
    """Measure norms, one row each as soon as it is there, and for tokens too where torch has a layer for them.

    Args:
        norms: Names or aliases; None for all that are registered.
        shape: Of the input, `(N, C, *)`.
        rounds: How often each is measured at least; one that is near a target of time is measured until its ratio is
            known to a hundredth, up to 20 times as often.
        compile: Whether to measure the norm under torch.compile as well.
        device: Where to run.

    Raises:
        UserError: If a norm is not known, a size is not positive, or there is no such device.
    """
    chosen = layer_cases(norms, shape, rounds, device)
    return (_measure(case, rounds, compile) for case in chosen)


def layer_cases(norms: Sequence[str] | None, shape: Sequence[int], rounds: int, device: str) -> list[Case]:
    """What there is to measure; the arguments and refusals are those of `measure_layers`."""
    chosen = cases(list_norms() if norms is None else norms, tuple(shape), device)
    if len(shape) < 2 or min(shape) < 1 or rounds < 1:
        raise UserError(
            f"a shape is N, C and positions, 1 or more, as are rounds; got {tuple(shape)} and {rounds} rounds"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device} is asked for, but torch finds no CUDA device; leave it out to run on the CPU")
    return chosen


def _measure(case: Case, rounds: int, compile: bool) -> LayerRow:
    reference = case.reference
    row = LayerRow(case.title, reference.title, case.input_shape, note=reference.missing)
    x = case.input()
    try:
        step = case.step(x)
        step(torch.randn_like(x))
    except (UserError, RuntimeError, TypeError) as error:
        return dataclasses.replace(row, note=f"left out: {_first_line(error)}")
    steps = {"norm": step}
    if not reference.missing:
        other = case.reference_step(x)
        try:
            other(torch.randn_like(x))
            steps["reference"] = other
        except (RuntimeError, ValueError) as error:  # of this shape, such as BatchNorm2d without positions
            row = dataclasses.replace(row, note=f"not compared: {_first_line(error)}")
    if compile:
        steps["compiled"] = compiled(step)
        try:
            steps["compiled"](torch.randn_like(x))
        except Exception as error:  # of the compiler, or for want of one
            del steps["compiled"]
            row = dataclasses.replace(row, note=f"not compiled: {_first_line(error)}")
    times = time_in_turn(steps, rounds, _until_told(timed(case.info, case.device), MOST * rounds))
    return _filled(row, steps, times)


def _until_told(targets: Mapping[str, float], most: int) -> Callable[[Mapping[str, Times]], bool]:
    """Whether each ratio that has a target is known, or plainly on one side of it; or there are so many rounds."""

    def told(times: Mapping[str, Times]) -> bool:
        ratios = {part: _ratio(times, "norm", part) for part in targets}
        told = [ratio is None or ratio.tells(targets[part]) for part, ratio in ratios.items()]
        return all(told) or len(times["norm"].both) >= most

    return told


def _ratio(times: Mapping[str, Times], name: str, part: str) -> Ratio | None:
    if name not in times or "reference" not in times:
        return None
    return Ratio.of(getattr(times[name], part), getattr(times["reference"], part))


def _filled(row: LayerRow, steps: Mapping[str, Step], times: Mapping[str, Times]) -> LayerRow:
    saved = {name: step.saved_bytes() / step.inputs[0].nbytes for name, step in steps.items()}
    norm = times["norm"]
    return dataclasses.replace(
        row,
        milliseconds=(1e3 * statistics.median(norm.forward), 1e3 * statistics.median(norm.both)),
        forward=_ratio(times, "norm", "forward"),
        both=_ratio(times, "norm", "both"),
        saved=saved["norm"],
        saved_against=saved.get("reference"),
        compiled_forward=_ratio(times, "compiled", "forward"),
        compiled_both=_ratio(times, "compiled", "both"),
        compiled_saved=saved.get("compiled"),
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
