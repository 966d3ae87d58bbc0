"""A cell of a sweep: as it is planned, locked to be run, and recorded when it has ended."""

import contextlib
import math
import os
import signal
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results import CellResult, read_result, stamp, write_result
from normzoo.sweep.cell_lock import CellLock, Elsewhere
from normzoo.sweep.compose import Composition
from normzoo.sweep.job import Job
from normzoo.sweep.supervisor import Ending, Limits
from normzoo.text import clock
from normzoo.training.callbacks import CURVE, STOP, curve_so_far, tidy
from normzoo.training.cell import describe
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.config import CellConfig
from normzoo.training.distributed import CRASHES, GRACE_S

BATCHES_TO_START = 300  # what starting a cell costs, in batches; only the time left is estimated from it
RETRY = "sweep.retry=failed runs it again"
NEVER_STARTED = "its worker never began it"  # also in records of earlier versions
_OUT_OF_MEMORY = (
    "the kernel ended one of its processes, as the machine or its container was out of memory: run fewer cells at once "
    "(hydra.launcher.n_jobs) or lower batch_size_per_device"
)


class State(StrEnum):
    """What a sweep does with a cell."""

    TO_RUN = "to run"
    CONTINUES = "continues from its checkpoint"
    DONE = "done"
    FAILED_BEFORE = "failed before"
    REFUSED = "refused"


@dataclass
class Cell:
    """One cell of a sweep."""

    composition: Composition  # makes the configuration where the cell runs
    config: CellConfig
    folder: Path
    overrides: tuple[str, ...] = ()  # that it was composed from
    label: str = ""  # the overrides in which it differs from the others
    num_train: int = 0  # training samples
    refused: str | None = None  # why it cannot run
    state: State = State.TO_RUN
    record: CellResult | None = None  # as it was when the cell was planned
    lost: bool = False  # whether no record of it could be written
    stamp: str = ""  # of the record when the cell was planned, here or elsewhere, to tell it from the next

    def __post_init__(self) -> None:
        self.stamp = self.stamp or stamp(self.folder)

    @property
    def cost(self) -> float:
        """Roughly, in batches."""
        trainer, batches = self.config.trainer, self.num_train / self.config.batch_over_devices
        epochs, steps = trainer.max_epochs, trainer.max_steps
        ends = [epochs * batches] if epochs is not None and epochs >= 0 else []
        ends += [steps * trainer.accumulate_grad_batches] if steps >= 0 else []
        return min(ends, default=batches) + BATCHES_TO_START

    @property
    def runs(self) -> bool:
        """Whether this sweep runs it."""
        return self.state in (State.TO_RUN, State.CONTINUES)

    @property
    def limits(self) -> Limits:
        """What it may take. The ranks of a cell of which one hangs are given the time to report which one it is."""
        options = self.config.sweep
        grace = 4 * GRACE_S if self.config.world_size > 1 else 0.0
        silence = None if options.stall_limit is None else options.stall_limit + grace
        return Limits(options.time_limit, options.memory_limit, silence)

    @property
    def error(self) -> float:
        """Its validation error in percent; infinity for a cell that has none, so that a search turns elsewhere."""
        result = self.result() if not self.refused else None
        error = result.metrics.get("val_error_running") if result is not None and result.status == "ok" else None
        return math.inf if error is None else error

    def job(self, target: Callable[..., object], *arguments: Any) -> Job:
        """Make the job that runs the cell by this call."""
        return Job(
            target,
            arguments,
            log=self.folder / "cell.log",
            need=self.config.resources,
            limits=self.limits,
            environment={"OMP_NUM_THREADS": str(self.config.trainer.threads)},
        )

    def refuse(self, reason: str) -> None:
        """Take the cell out of those to run."""
        self.refused, self.state = reason, State.REFUSED

    def result(self, *, new: bool = False) -> CellResult | None:
        """Read the record, where there is one that can be read.

        Args:
            new: Ignore a record that was there already when the cell was planned.
        """
        if new and stamp(self.folder) == self.stamp:
            return None
        with contextlib.suppress(UserError):
            return read_result(self.folder)
        return None

    def lock(self, *, resume: bool) -> CellLock | Elsewhere:
        """Get the right to run the cell, or why it is not to be run, and clear its folder of earlier attempts.

        An old record stays until the new one is there.

        Args:
            resume: Whether the cell continues from the checkpoint in its folder.

        Raises:
            UserError: If what an earlier attempt has left cannot be removed.
        """
        lock = CellLock.acquire(self.folder)
        if lock is None:
            return Elsewhere.RUNS
        try:
            found = self.result(new=True)
            if is_given_up(found):  # by the sweep that had queued it, and it now starts
                self.stamp, found = stamp(self.folder), None
            if found is None:
                self._clear(resume=resume)
                return lock
        except BaseException:  # others would find the cell locked for as long as this process lives
            lock.release()
            raise
        lock.release()
        return Elsewhere.DONE

    def _clear(self, *, resume: bool) -> None:
        try:
            for name in (STOP,) if resume else (STOP, CHECKPOINT):
                (self.folder / name).unlink(missing_ok=True)
            if not (self.folder / CHECKPOINT).exists():
                (self.folder / CURVE).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot remove {error.filename}: {error.strerror}; choose another folder with hydra.sweep.dir"
            ) from error

    def settle(self, ending: Ending) -> CellResult:
        """Return the cell's record, and write one that tells how its process ended if it has left none itself.

        Args:
            ending: Of its process; the cell is still locked.
        """
        result = self.result(new=True)
        if result is None:
            status, reason = explain(ending, self)
            result = self.fail(status, reason, ending.seconds)
        elif result.status in ("error", "killed") and ending.oom_kills and "SIGKILL" in (result.reason or ""):
            # One of its processes was ended, and the cell could not know by whom.
            result.status, result.reason = "oom", f"{_OUT_OF_MEMORY} ({result.reason})"
            self.write(result)
        if result.status == "ok":
            tidy(self.folder)
        return result

    def fail(self, status: str, reason: str, seconds: float = 0.0) -> CellResult:
        """Record, with the curve so far, a cell that has left no record itself."""
        result = CellResult(**describe(self.config), status=status, reason=reason, curve=curve_so_far(self.folder))
        result.time["wall_s"] = seconds
        self.write(result)
        return result

    def write(self, result: CellResult) -> None:
        """Write the record; if that fails, the cell is `lost`, and the sweep continues."""
        try:
            write_result(self.folder, result)
        except UserError as error:
            self.lost = True
            reason = str(result.reason) if str(result.reason).startswith("cannot write") else f"{error} {result.reason}"
            # Without the folder of the sweep there is room for the cause on the line that is printed.
            result.reason = reason.replace(f"{self.folder.parent}{os.sep}", "")


def is_given_up(result: CellResult | None) -> bool:
    """Whether a sweep has recorded that the cell never started; waiting in an engine's queue, it may start yet."""
    return result is not None and (result.reason or "").startswith(NEVER_STARTED)


def explain(ending: Ending, cell: Cell) -> tuple[str, str]:
    """Return the status and the reason of a cell whose process ended without a record of its own."""
    log, options = f"{cell.folder.name}/cell.log", cell.config.sweep
    if ending.cause == "timeout":
        limit = clock(options.time_limit or 0.0)
        return "timeout", f"it took longer than sweep.time_limit={limit}{_progress(cell)}; raise the limit, and {RETRY}"
    if ending.cause == "silence":
        limit = clock(options.stall_limit or 0.0)
        hangs = "it hangs" if cell.config.world_size == 1 else "all its ranks hang"
        return "timeout", (
            f"{hangs}: it has started no batch and printed nothing for longer than sweep.stall_limit={limit}"
            f"{_progress(cell)}; raise the limit if it only takes long, and {RETRY}"
        )
    if ending.cause == "memory":
        return "oom", (
            f"its processes had {ending.memory:.2f} GiB of private memory, more than "
            f"sweep.memory_limit={options.memory_limit:g}; raise the limit or lower batch_size_per_device, and {RETRY}"
        )
    if ending.cause == "kernel":
        return "oom", f"{_OUT_OF_MEMORY}, and {RETRY}"
    if ending.cause == "stopped":
        return "killed", f"its supervisor was ended from outside (SIGTERM); {RETRY}"
    if ending.code < 0 and -ending.code in CRASHES:
        return "error", f"its process crashed ({_name(-ending.code)}); {log} shows where; {RETRY}"
    if ending.code < 0:
        return "killed", f"its process was ended from outside ({_name(-ending.code)}); {RETRY}"
    return "error", f"its process ended with exit code {ending.code} and left no result; see {log}; {RETRY}"


def summary(result: CellResult) -> str:
    """Summarize the record in a few words, for a line on the console."""
    if result.status == "ok":
        error, early = result.metrics.get("val_error_running"), f", {result.reason}".split(":")[0] * bool(result.reason)
        return "no validation" if error is None else f"error {error:.2f} %{early}"
    first_line = (result.reason or "").split("\n")[0]
    return f"{result.status}: {textwrap.shorten(first_line, 120, placeholder=' …')}"


def _progress(cell: Cell) -> str:
    curve = curve_so_far(cell.folder)
    if not curve:
        return ""
    epochs = cell.config.trainer.max_epochs or -1
    return f", in epoch {curve[-1].get('epoch', 0) + 1}" + (f" of {epochs}" if epochs > 0 else "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
