"""One cell: train one resolved configuration and write its record, whatever becomes of it."""

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

from normzoo.errors import UserError, cannot_write
from normzoo.recording import write_recording
from normzoo.results import CellResult, check_no_newer, read_result, stamp, write_atomic, write_result
from normzoo.text import bounded
from normzoo.training.callbacks import curve_so_far
from normzoo.training.check import RefusedError, check_cell, check_devices
from normzoo.training.checkpoint import find_checkpoint
from normzoo.training.config import CellConfig, parse
from normzoo.training.distributed import (
    GRACE_S,
    RankError,
    launch,
    lost_another,
    rank,
    says_out_of_memory,
    under_torchrun,
    waited_in_vain,
)
from normzoo.training.fit import Run, fit
from normzoo.training.instantiate import Parts, build_data, build_study
from normzoo.training.resources import processor_name
from normzoo.training.temporary import make_sockets_folder, where_full

ERROR = "error.txt"


def run_cell(config: CellConfig | Mapping[str, Any], folder: Path) -> CellResult | None:
    """Train the cell `config` and write `result.json` into `folder`.

    A half-done cell goes on from the checkpoint in its folder, unless `sweep.resume` is false.

    Args:
        config: Parsed, or plain as `OmegaConf.to_container(..., resolve=True)` gives it.
        folder: The cell's own; made if absent.

    Returns:
        The record as written; its status is `ok` or `diverged`. None in those processes of torchrun that write none.

    Raises:
        RefusedError: If the cell cannot be: its parts do not fit each other, the data set is missing, or an option is
            wrong; recorded as `refused`.
        UserError: If the folder cannot be written.
        Exception: Whatever the training raised, a `RankError` if one of its processes died; recorded as `error`, `oom`
            or `killed`, with the traceback of the process that is to blame in `error.txt`.
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
            curve = curve_so_far(folder)
            why = reason(error)
            why += where_full(why, folder)
            write_result(folder, CellResult(**record, status=_status(error), reason=why, curve=curve))
        raise


def write_probe(folder: Path) -> None:
    """Make the folder, and fail now rather than after the training where nothing can be written into it.

    Raises:
        UserError: Naming the folder and why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error, "hydra.run.dir or hydra.sweep.dir") from error


def describe(config: CellConfig) -> dict[str, Any]:
    """What a record says of a cell before it has trained."""
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


def reason(error: BaseException) -> str:
    """The last lines a traceback would print."""
    if isinstance(error, RankError):
        return str(error)
    said = "".join(traceback.format_exception_only(error)).strip()
    if waited_in_vain(error):
        said = f"waited for another rank, which hangs, longer than sweep.stall_limit: {said}"
    return f"rank {rank()}: {said}" if rank() else said


def _status(error: Exception) -> str:
    if isinstance(error, RankError):
        return error.status
    if waited_in_vain(error):
        return "timeout"
    return "oom" if says_out_of_memory(reason(error)) else "error"


def _is_to_write(error: Exception, folder: Path, before: object) -> bool:
    """Whether this process records the error: one that lost another, only if that other has not."""
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
        passage = check_cell(config, data)
    checkpoint = find_checkpoint(folder, record["cell"], resume=config.sweep.resume)
    run = Run(config, folder, record, passage, started, checkpoint)
    if not ranks:
        fit(run, data)
        return read_result(folder) if rank() == 0 else None
    start_method = _start_method(config)
    # Ranks that are forked have the data in memory; others read it again, which costs less than to pickle it.
    launch(config.world_size, folder, start_method, fit, run, data if start_method == "fork" else None)
    return read_result(folder)


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong before the training begins refuses the cell, alone as in a sweep."""
    try:
        yield
    except RefusedError:
        raise
    except UserError as error:
        raise RefusedError(str(error)) from error


def _start_method(config: CellConfig) -> str:
    return "spawn" if config.on_gpu else "fork"  # CUDA does not outlive a fork


@cache
def package_versions() -> dict[str, str]:
    """Of Python and of what a cell's result may depend on."""
    packages = ("normzoo", "torch", "lightning", "torchmetrics", "hydra-core")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
