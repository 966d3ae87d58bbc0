"""Measure time and memory of each norm, relative to a reference layer."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from normzoo.bench.cases import Case, cases
from normzoo.bench.compiled import compiled
from normzoo.bench.measure import LayerRow, Ratio, Step, Times, time_in_turn
from normzoo.bench.targets import timed
from normzoo.errors import UserError
from normzoo.registry import list_norms

MAX_EXTRA_ROUNDS = 20  # times `rounds`, for a ratio that is close to its target


def measure_layers(
    norms: Sequence[str] | None = None,
    shape: Sequence[int] = (32, 64, 28, 28),
    rounds: int = 8,
    *,
    compile: bool = False,
    device: str = "cpu",
) -> Iterator[LayerRow]:
    """Measure norms and yield one row each, and a second one for tokens where torch has a layer for them.

    Args:
        norms: Names or aliases; None for all registered norms.
        shape: Input shape, `(N, C, *)`.
        rounds: Minimum number of rounds; a norm close to a time target is measured until its ratio is known within 1 %,
            for at most 20 times as many rounds.
        compile: Whether to measure the norm under torch.compile as well.
        device: Device to run on.

    Raises:
        UserError: If a norm is unknown, a size is not positive, or the device does not exist.
    """
    chosen = layer_cases(norms, shape, rounds, device)
    return (_measure(case, rounds, compile) for case in chosen)


def layer_cases(norms: Sequence[str] | None, shape: Sequence[int], rounds: int, device: str) -> list[Case]:
    """Check the arguments of `measure_layers` and return the cases to measure."""
    chosen = cases(list_norms() if norms is None else norms, tuple(shape), device)
    if len(shape) < 2 or min(shape) < 1 or rounds < 1:
        raise UserError(
            f"the shape needs N, C and positions of at least 1, and rounds must be at least 1; "
            f"got shape {tuple(shape)} and {rounds} rounds"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: torch finds no CUDA device; omit --device to run on the CPU")
    return chosen


def _measure(case: Case, rounds: int, compile: bool) -> LayerRow:
    reference = case.reference
    row = LayerRow(case.title, reference.title, case.input_shape, note=reference.missing)
    x = case.input()
    try:
        step = case.step(x)
        step(torch.randn_like(x))
    except (UserError, RuntimeError, TypeError) as error:
        return dataclasses.replace(row, note=f"skipped: {_first_line(error)}")
    steps = {"norm": step}
    if not reference.missing:
        other = case.reference_step(x)
        try:
            other(torch.randn_like(x))
            steps["reference"] = other
        except (RuntimeError, ValueError) as error:  # a shape it does not take, such as BatchNorm2d without positions
            row = dataclasses.replace(row, note=f"not compared: {_first_line(error)}")
    if compile:
        steps["compiled"] = compiled(step)
        try:
            steps["compiled"](torch.randn_like(x))
        except Exception as error:  # the compiler failed or is missing
            del steps["compiled"]
            row = dataclasses.replace(row, note=f"not compiled: {_first_line(error)}")
    times = time_in_turn(steps, rounds, _until_precise(timed(case.info, case.device), MAX_EXTRA_ROUNDS * rounds))
    return _filled(row, steps, times)


def _until_precise(targets: Mapping[str, float], most: int) -> Callable[[Mapping[str, Times]], bool]:
    """Return a stopping rule: every ratio with a target is decided, or there are `most` rounds."""

    def precise(times: Mapping[str, Times]) -> bool:
        ratios = {part: _ratio(times, "norm", part) for part in targets}
        known = [ratio is None or ratio.decides(targets[part]) for part, ratio in ratios.items()]
        return all(known) or len(times["norm"].both) >= most

    return precise


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
