"""Run one cell: train a configuration, and write its record whether it succeeds or fails."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch

from normzoo.errors import RefusedError, UserError, cannot_write
from normzoo.files import write_atomic
from normzoo.recording import write_recording
from normzoo.results import CellResult, check_no_newer, read_result, stamp, write_result
from normzoo.text import bounded
from normzoo.training.callbacks import curve_so_far
from normzoo.training.check import check_cell, check_devices
from normzoo.training.checkpoint import find_checkpoint
from normzoo.training.config import CellConfig, parse
from normzoo.training.distributed import (
    GRACE_S,
    RankError,
    is_out_of_memory,
    launch,
    lost_another,
    rank,
    timed_out_waiting,
    under_torchrun,
)
from normzoo.training.fit import Run, fit
from normzoo.training.instantiate import Parts, build_data, build_study
from normzoo.training.machine import make_sockets_folder, processor_name, where_full
from normzoo.training.saved import MODEL

ERROR = "error.txt"


def run_cell(config: CellConfig | Mapping[str, Any], folder: Path) -> CellResult | None:
    """Train the cell `config` and write `result.json` into `folder`.

    A checkpoint in the folder is resumed, unless `sweep.resume` is false. The cell is checked again here, though a
    sweep's plan has checked it: it may run on another machine, under a launcher that checks nothing, or alone.

    Args:
        config: Parsed, or plain as `OmegaConf.to_container(..., resolve=True)` returns it.
        folder: The cell's own; created if needed.

    Returns:
        The record as written, with status `ok` or `diverged`; None in ranks of torchrun other than the first.

    Raises:
        RefusedError: If the cell cannot run: its parts do not fit each other, the data set is missing, or an option is
            wrong; recorded as `refused`.
        UserError: If the folder cannot be written.
        Exception: Whatever the training raised, a `RankError` if one of its ranks died; recorded as `error`, `oom`,
            `timeout` or `killed`, with the traceback of the failed process in `error.txt`.
    """
    write_probe(folder)
    check_no_newer(folder)
    config = parse(config)
    record = describe(config)
    before = stamp(folder)
    if rank() == 0:
        (folder / ERROR).unlink(missing_ok=True)
    try:
        with _refusing():
            make_sockets_folder()
            if config.invalid is not None:
                raise UserError(config.invalid)
            study = build_study(config)
        return _study(study, config, folder, record) if study else _train(config, folder, record)
    except RefusedError as error:
        if rank() == 0:
            write_result(folder, CellResult(**record, status="refused", reason=str(error)))
        raise
    except Exception as error:
        if _is_to_write(error, folder, before):
            trace = error.trace or f"{error}\n" if isinstance(error, RankError) else traceback.format_exc()
            write_atomic(folder / ERROR, bounded(trace, 2**18))
            status, reason = _status_and_reason(error)
            reason += where_full(reason, folder)
            write_result(folder, CellResult(**record, status=status, reason=reason, curve=curve_so_far(folder)))
        raise


def write_probe(folder: Path) -> None:
    """Create the folder, and check that it can be written before the training rather than after it.

    Raises:
        UserError: If it cannot, with the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error, "hydra.run.dir or hydra.sweep.dir") from error


def describe(config: CellConfig) -> dict[str, Any]:
    """Return the entries of a record that are known before the cell trains."""
    gpu = config.on_gpu
    return {
        "cell": config.identity,
        "config": dict(config.plain),
        # Another is refused; `config` has it.
        "seed": config.seed if type(config.seed) is int and abs(config.seed) < 2**63 else 0,
        "time": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
        "device": {
            # A GPU's own name is asked for once the cell trains: asking starts CUDA in this process.
            "name": "cuda" if gpu else processor_name(),
            "type": "cuda" if gpu else "cpu",
            "cores": os.cpu_count(),
            "threads": config.trainer.threads,
        },
        "versions": dict(package_versions()),
    }


def _status_and_reason(error: Exception) -> tuple[str, str]:
    """Return the status of a failed cell, and the last lines that a traceback would print."""
    if isinstance(error, RankError):
        return error.status, str(error)
    reason = "".join(traceback.format_exception_only(error)).strip()
    status = "oom" if is_out_of_memory(reason) else "error"
    if timed_out_waiting(error):
        status = "timeout"
        reason = f"waited for another rank, which hangs, longer than sweep.stall_limit: {reason}"
    return status, f"rank {rank()}: {reason}" if rank() else reason


def _is_to_write(error: Exception, folder: Path, before: object) -> bool:
    """Return whether this process records the error; one that lost another rank does only if that rank has not."""
    if not under_torchrun() or not lost_another(error):
        return True
    time.sleep(GRACE_S)
    return rank() == 0 and stamp(folder) == before


def _study(study: Callable[..., Any], config: CellConfig, folder: Path, record: dict[str, Any]) -> CellResult:
    started = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.threads)
    metrics, arrays = study(Parts(config))
    if arrays:
        write_recording(folder, arrays)
    result = CellResult(**record, status="ok", metrics=metrics)
    result.time["wall_s"] = time.perf_counter() - started
    write_result(folder, result)
    return read_result(folder)


def _train(config: CellConfig, folder: Path, record: dict[str, Any]) -> CellResult | None:
    started = time.perf_counter()
    with _refusing():
        check_devices(config)
        ranks = not under_torchrun() and (config.world_size > 1 or config.trainer.strategy == "torchrun")
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        # A process forked from one that has computed in several threads would wait for them, and it has none of them.
        torch.set_num_threads(1 if ranks else config.trainer.threads)
        data: Any = build_data(config)
        data.prepare_data()
        data.setup("fit")
        trace = check_cell(config, data)
    checkpoint = find_checkpoint(folder, record["cell"], resume=config.sweep.resume)
    if (checkpoint is None or config.sweep.save == "none") and rank() == 0:
        (folder / MODEL).unlink(missing_ok=True)  # of an earlier training
    run = Run(config, folder, record, trace, started, checkpoint)
    if not ranks:
        fit(run, data)
        return read_result(folder) if rank() == 0 else None
    start_method = _start_method(config)
    # Forked ranks share the data in memory; others read it again, which is faster than pickling it.
    launch(config.world_size, folder, start_method, fit, run, data if start_method == "fork" else None)
    return read_result(folder)


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise a UserError as RefusedError: whatever is wrong before the training begins refuses the cell."""
    try:
        yield
    except RefusedError:
        raise
    except UserError as error:
        raise RefusedError(str(error)) from error


def _start_method(config: CellConfig) -> str:
    return "spawn" if config.on_gpu else "fork"  # CUDA does not survive a fork


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on."""
    packages = ("normzoo", "torch", "lightning", "torchmetrics", "hydra-core")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
