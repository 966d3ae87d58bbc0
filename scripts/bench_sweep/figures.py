"""Measure the overhead of sweeps, run as a user runs them."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from normzoo.bench.measurement import Measurement
from normzoo.training.machine import processor_cores
from scripts.bench_sweep.commands import Ended, sweep
from scripts.bench_sweep.records import write_records

# One cell of the default experiment whose training takes about a second.
SHORT = ("norm=group_norm", "trainer=cpu", "data.image_size=8", "batch_size_per_device=32", "trainer.max_epochs=1")
# And one that takes seconds.
LONGER = ("norm=group_norm", "trainer=cpu", "data.image_size=8", "batch_size_per_device=8")

REPORT = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from normzoo.report import report
started, worked = time.perf_counter(), time.process_time()
report(sys.argv[1], width=100)
print(time.perf_counter() - started, time.process_time() - worked)
"""


def cell_overhead(cells: int = 10, rounds: int = 3, overrides: Sequence[str] = SHORT) -> Measurement:
    """Measure the seconds between consecutive cells of a sequential sweep, without training and validation.

    This includes forking, composing the configuration, reading the data, building the model, writing the record, and
    starting the next cell.
    """
    values = []
    for _ in range(rounds):
        seeds = "seed=" + ",".join(map(str, range(cells + 1)))
        _, ended = _swept(*overrides, seeds, "probe=fit_time", "hydra.launcher.n_jobs=1")
        _all_ok(ended)
        values += [later.at - earlier.at - _fit_seconds(later) for earlier, later in pairwise(ended)]
    note = f"cells of {' '.join(overrides)}: from one's end to the next one's, without epochs and validation"
    return Measurement("cell overhead beyond training", "s", 0.5, True, values, note)


def planning(overrides: Sequence[str] = ("experiment=small_batch",), rounds: int = 3) -> Measurement:
    """Measure the milliseconds per cell that planning takes beyond Hydra's composition."""
    from normzoo.sweep.plan import plan
    from normzoo.sweep.precheck import Precheck

    values, whole, checking, cells = [], [], [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, _launcher(overrides, folder) as (launcher, listed):
            with _timed(Precheck, "of") as checks:
                started = time.perf_counter()
                plan(launcher, listed, 0)
                seconds = time.perf_counter() - started
            cells = len(listed)
            hydra_alone = launcher.hydra_context.config_loader.alone(launcher.config, listed[:: max(1, cells // 8)])
            values.append(1e3 * (seconds - launcher.hydra_context.config_loader.seconds) / cells)
            whole.append(1e3 * seconds / cells)
            checking.append(1e3 * sum(checks) / cells)
    note = (
        f"the plan of the {cells} cells of {' '.join(overrides)}; with Hydra's part {statistics.median(whole):.1f} ms "
        f"a cell; {statistics.median(checking):.1f} ms of it check whether the cell can be; Hydra would take "
        f"{1e3 * hydra_alone:.0f} ms to compose each cell by itself"
    )
    return Measurement("planning, a cell, beyond Hydra's composition", "ms", 10.0, True, values, note)


def report_seconds(records: int = 10_000, rounds: int = 3) -> Measurement:
    """Measure the seconds of `normzoo.report.report` over generated records, in a fresh process on one core."""
    values, whole, worked = [], [], []
    with tempfile.TemporaryDirectory() as folder, _launcher((), folder) as (launcher, _):
        write_records(Path(folder) / "sweep", _plain_config(launcher), records)
        for _ in range(rounds):
            started = time.perf_counter()
            command = [sys.executable, "-c", REPORT, str(Path(folder) / "sweep")]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            whole.append(time.perf_counter() - started)
            seconds, of_processor = map(float, done.stdout.split()[-2:])
            values.append(seconds)
            worked.append(of_processor)
    note = (
        f"reading, table, summary, figure and page on one core, {statistics.median(worked):.1f} s of processor time; "
        f"with starting Python {statistics.median(whole):.1f} s"
    )
    return Measurement(f"report over {records:,} results", "s", 10.0, True, values, note)


def two_cores(cells: int = 16, rounds: int = 3, overrides: Sequence[str] = LONGER) -> Measurement:
    """Measure the throughput of two cores relative to one, from the first cells' ends to the last one's."""
    name = "cells a minute on two cores, to one"
    if len(processor_cores()) < 2:
        return Measurement(name, "×", 1.8, False, (), "this machine has one core")
    values, rates = [], {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for n_jobs in rates:
            seeds = "seed=" + ",".join(map(str, range(cells)))
            _, ended = _swept(*overrides, seeds, f"hydra.launcher.n_jobs={n_jobs}")
            _all_ok(ended)
            rates[n_jobs] = 60 * (cells - n_jobs) / (ended[-1].at - ended[n_jobs - 1].at)
        values.append(rates[2] / rates[1])
    note = f"{cells} cells of one thread each; the last round: {rates[1]:.0f} and {rates[2]:.0f} cells a minute"
    return Measurement(name, "×", 1.8, False, values, note)


def _swept(*overrides: str) -> tuple[float, list[Ended]]:
    with tempfile.TemporaryDirectory() as folder:
        return sweep(overrides, Path(folder) / "sweep")


def _all_ok(ended: Sequence[Ended]) -> None:
    for one in ended:
        if one.result.status != "ok":
            raise RuntimeError(f"a cell of the bench is {one.result.status}: {one.result.reason}")


def _fit_seconds(one: Ended) -> float:
    seconds = one.result.metrics["fit_s"]
    assert seconds is not None
    return seconds


class _Counting:
    """Hydra's config loader, which counts the seconds it composes."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.seconds = loader, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master: Any, overrides: list[str]) -> Any:
        started = time.perf_counter()
        try:
            return self.loader.load_sweep_config(master, overrides)
        finally:
            self.seconds += time.perf_counter() - started

    def alone(self, master: Any, listed: Sequence[list[str]]) -> float:
        """Seconds a cell that Hydra takes to compose these, each from the start."""
        started = time.perf_counter()
        for overrides in listed:
            self.loader.load_sweep_config(master, overrides)
        return (time.perf_counter() - started) / len(listed)


@contextmanager
def _timed(owner: type, name: str) -> Iterator[list[float]]:
    """Record the seconds of each call of a method."""
    method, seconds = getattr(owner, name), []

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


@contextmanager
def _launcher(overrides: Sequence[str], folder: str) -> Iterator[tuple[Any, list[list[str]]]]:
    """What stands for the launcher of a sweep with these overrides into `folder`, and each of its cells' overrides."""
    from hydra import initialize_config_module
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.core.utils import setup_globals
    from hydra.types import HydraContext, RunMode

    from normzoo.sweep.sweeper import cells

    before = HydraConfig.instance().cfg
    setup_globals()
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        hydra = GlobalHydra.instance()
        assert hydra.hydra is not None
        loader = hydra.config_loader()
        master = loader.load_configuration("train", [*overrides, f"hydra.sweep.dir={folder}"], RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=master, hydra_context=context, task_function=lambda config: None
        )
        listed = cells(sweeper, list(overrides))
        counting = SimpleNamespace(config_loader=_Counting(loader))
        try:
            launcher = SimpleNamespace(config=master, hydra_context=counting, devices_here=True, planned=lambda _: None)
            yield launcher, listed
        finally:
            HydraConfig.instance().cfg = before


def _plain_config(launcher: Any) -> dict[str, Any]:
    from normzoo.sweep.compose import Composer

    composer = Composer(launcher.hydra_context.config_loader, launcher.config, "sweep")
    return json.loads(json.dumps(composer.compose([])[0].plain))
