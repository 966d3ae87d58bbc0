"""Measure the overhead of a sweep beyond its training, and the speed of its convolutions, against targets."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from normzoo.bench.measure import BUSY, load, machine, write_json
from normzoo.bench.measurement import Measurement
from normzoo.bench.other_load import OtherLoad
from normzoo.errors import UserError, exit_with
from scripts.bench_sweep import convolutions, figures, steps, template

DESCRIPTION = """What a sweep costs beside its training, and how near the convolutions of small batches come to the
faster of two ways, measured here and now: medians with the lowest and highest value, each with its target. Nothing else
should run meanwhile; it says how many cores others kept busy. Most of the time goes into the default grid in the
baseline of scripts/template_baseline; --quick, with a part of that grid, takes three minutes on two cores.

  python -m scripts.bench_sweep --quick
  python -m scripts.bench_sweep --only overhead planning --rounds 5 --json sweep.json"""

SUBJECTS = ("overhead", "planning", "report", "cores", "convolutions", "steps", "template")


def measure_sweep(
    only: Sequence[str] | None = None, *, quick: bool = False, rounds: int = 3, keep: Path | None = None
) -> Iterator[Measurement]:
    """Measure the selected subjects, and yield one measurement each.

    Args:
        only: Some of `SUBJECTS`; None for all.
        quick: Whether to use fewer cells, one round, and a part of the default grid.
        rounds: How often to measure each subject; the default grid runs only once.
        keep: Folder for the runs of the default grid, or of its part; existing runs are not repeated.

    Raises:
        UserError: If a subject is unknown, or `rounds` is not positive.
    """
    unknown = sorted(set(only or ()) - set(SUBJECTS))
    if unknown or rounds < 1:
        raise UserError(f"--only takes {', '.join(SUBJECTS)}, and --rounds must be at least 1; got {unknown or rounds}")
    part = [template.PART]
    measures: dict[str, Callable[[], Measurement]] = {
        "overhead": lambda: figures.cell_overhead(rounds=rounds),
        "planning": lambda: figures.planning(rounds=rounds),
        "report": lambda: figures.report_seconds(rounds=rounds),
        "cores": lambda: figures.two_cores(rounds=rounds),
        "convolutions": lambda: convolutions.small_batches(rounds=rounds),
        "steps": lambda: steps.small_steps(rounds=rounds),
        "template": lambda: template.against_template(keep=keep),
    }
    if quick:
        measures |= {
            "overhead": lambda: figures.cell_overhead(cells=5, rounds=1),
            "planning": lambda: figures.planning(rounds=1),
            "report": lambda: figures.report_seconds(rounds=1),
            "cores": lambda: figures.two_cores(cells=10, rounds=1),
            "convolutions": lambda: convolutions.small_batches(
                tuple(convolutions.cases(["plain_cnn", "lenet5"])), rounds=1
            ),
            "steps": lambda: steps.small_steps(steps=100, rounds=2),
            "template": lambda: template.against_template(part, keep=keep and keep / "quick"),
        }
    return (measure() for name, measure in measures.items() if only is None or name in only)


def main(argv: Sequence[str] | None = None) -> None:
    """Print each measurement as it finishes; exit with 2 on invalid options."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench_sweep",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer cells, each figure once")
    parser.add_argument("--only", nargs="+", metavar="FIGURE", help=f"of {', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, metavar="K", help="times each is measured; default: 3")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep the default grid's runs there, and go on with those there are"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    try:
        _print(parser.parse_args(argv))
    except UserError as error:
        exit_with(error)


def _print(chosen: argparse.Namespace) -> None:
    measured = measure_sweep(chosen.only, quick=chosen.quick, rounds=chosen.rounds, keep=chosen.keep)
    where, found = machine("cpu"), list[dict[str, Any]]()
    print(f"{where['device']}, {where['cores']} cores, Python {where['python']}, torch {where['torch']}")
    busy = load()
    if busy > BUSY:
        print(f"the machine is at work already (a load of {busy:.1f}): the figures will look worse than they are")
    others = OtherLoad()
    for figure in measured:
        taken = others.cores()
        found.append({**figure.record(), "cores_taken_by_others": round(taken, 2)})
        print(figure.line(), flush=True)
        if taken > BUSY:
            print(f"    others kept {taken:.1f} cores busy meanwhile: measure it again when they do not", flush=True)
        others = OtherLoad()
    if chosen.json is not None:
        write_json(chosen.json, {"machine": where, "load": busy, "figures": found})


if __name__ == "__main__":
    main()
