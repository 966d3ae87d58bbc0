"""What became of a cell, also of one whose process did not live to say so."""

import contextlib
import os
import signal
import textwrap
from pathlib import Path

from normzoo.errors import UserError
from normzoo.results import CellResult, write_result
from normzoo.sweep.limits import Limits
from normzoo.sweep.plan import Cell
from normzoo.sweep.supervisor import Ending
from normzoo.sweep.tally import clock
from normzoo.training.callbacks import curve_so_far, tidy
from normzoo.training.cell import describe
from normzoo.training.config import CellConfig
from normzoo.training.distributed import CRASHES, GRACE_S

MOST_LOGGED = 2**24  # bytes of a log that are kept
AGAIN = "sweep.retry=failed runs it again"
NEVER_BEGUN = "its worker never began it"


def given_up(result: CellResult | None) -> bool:
    """Whether it is what a sweep says of a cell that waited in an engine's queue, where it may begin after all."""
    return result is not None and (result.reason or "").startswith(NEVER_BEGUN)


def settle(cell: Cell, ending: Ending) -> CellResult:
    """The record of a cell that has ended: its own, or one that says how its process ended and keeps the curve so far.

    Args:
        cell: Claimed still.
        ending: Of its process.
    """
    result = cell.result(new=True)
    if result is None:
        status, reason = cause(ending, cell)
        result = failed(cell, status, reason, ending.seconds)
    elif result.status in ("error", "killed") and ending.oom_kills and "SIGKILL" in (result.reason or ""):
        # One of its processes was ended, and the cell cannot have known by whom.
        result.status, result.reason = "oom", f"{_kernel()} ({result.reason})"
        record(cell, result)
    _shorten(cell.folder / "cell.log")
    if result.status == "ok":
        tidy(cell.folder)
    return result


def _shorten(log: Path) -> None:
    """Leave the beginning and the end of a log that has grown out of hand."""
    with contextlib.suppress(OSError):
        if (size := log.stat().st_size) > MOST_LOGGED:
            with open(log, "r+b") as file:
                file.seek(-MOST_LOGGED // 2, os.SEEK_END)
                end = file.read()
                file.seek(MOST_LOGGED // 2)
                file.write(f"\n... {size - MOST_LOGGED:,} bytes left out ...\n".encode() + end)
                file.truncate()


def failed(cell: Cell, status: str, reason: str, seconds: float = 0.0) -> CellResult:
    """The record, written where that can be, of a cell that has left none itself, with the curve so far."""
    result = CellResult(**describe(cell.config), status=status, reason=reason, curve=curve_so_far(cell.folder))
    result.time["wall_s"] = seconds
    record(cell, result)
    return result


def record(cell: Cell, result: CellResult) -> None:
    """Write what became of a cell; where that cannot be, the cell is `lost`, and the sweep goes on."""
    try:
        write_result(cell.folder, result)
    except UserError as error:
        cell.lost = True
        reason = str(result.reason) if str(result.reason).startswith("cannot write") else f"{error} {result.reason}"
        # Without the folder of the sweep there is room for the cause on the line that is printed.
        result.reason = reason.replace(f"{cell.folder.parent}{os.sep}", "")


def cause(ending: Ending, cell: Cell) -> tuple[str, str]:
    """The status and the reason of a cell whose process ended without a record of its own."""
    log, options = f"{cell.folder.name}/cell.log", cell.config.sweep
    if ending.cause == "timeout":
        limit = clock(options.time_limit or 0.0)
        return "timeout", (
            f"it took longer than sweep.time_limit={limit}{_how_far(cell)}; raise the limit, and {AGAIN}"
        )
    if ending.cause == "silence":
        limit = clock(options.stall_limit or 0.0)
        of = "it hangs" if cell.config.world_size == 1 else "its ranks hang, all of them"
        return "timeout", (
            f"{of}: no batch has begun and nothing has been printed for longer than sweep.stall_limit={limit}"
            f"{_how_far(cell)}; raise the limit if it only takes long, and {AGAIN}"
        )
    if ending.cause == "memory":
        return "oom", (
            f"its processes had {ending.memory:.2f} GiB of memory for themselves, more than "
            f"sweep.memory_limit={options.memory_limit:g}; raise the limit or lower batch_size_per_device, and {AGAIN}"
        )
    if ending.cause == "kernel":
        return "oom", f"{_kernel()}, and {AGAIN}"
    if ending.cause == "stopped":
        return "killed", f"what watches its process was told to end it (SIGTERM), by no one in this sweep; {AGAIN}"
    if ending.code < 0 and -ending.code in CRASHES:
        return "error", f"its process crashed ({_name(-ending.code)}); {log} says where; {AGAIN}"
    if ending.code < 0:
        return "killed", f"its process was ended from outside ({_name(-ending.code)}); {AGAIN}"
    return "error", f"its process ended with exit code {ending.code} and left no result; see {log}; {AGAIN}"


def limits(config: CellConfig) -> Limits:
    """What the cell may take. Of ranks of which one hangs the others say so first, and say which."""
    options = config.sweep
    patience = 4 * GRACE_S if config.world_size > 1 else 0.0
    silence = None if options.stall_limit is None else options.stall_limit + patience
    return Limits(options.time_limit, options.memory_limit, silence)


def outcome(result: CellResult) -> str:
    """In a few words, for a line on the console."""
    if result.status == "ok":
        error = result.metrics.get("val_error_running")
        return "no validation" if error is None else f"error {error:.2f} %"
    first_line = (result.reason or "").split("\n")[0]
    return f"{result.status}: {textwrap.shorten(first_line, 120, placeholder=' …')}"


def _kernel() -> str:
    return (
        "the kernel ended one of its processes, as the machine or its container was out of memory: run fewer cells at "
        "once (hydra.launcher.n_jobs) or lower batch_size_per_device"
    )


def _how_far(cell: Cell) -> str:
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
