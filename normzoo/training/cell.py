"""One cell: train one resolved configuration and write its record, whatever becomes of it."""

import logging
import os
import platform
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.multiprocessing.spawn import ProcessRaisedException

from normzoo.errors import UserError
from normzoo.recording import write_recording
from normzoo.results import CellResult, cell_id, read_result, write_result
from normzoo.training.build import (
    Config,
    Parts,
    build_data,
    build_model,
    build_probes,
    build_study,
    learning_rate,
)
from normzoo.training.callbacks import EpochLines, Recorder
from normzoo.training.check import RefusedError, check_cell, check_devices, on_gpu, values_per_statistic
from normzoo.training.module import Classifier

log = logging.getLogger("normzoo")


def run_cell(config: Config, folder: Path) -> CellResult | None:
    """Train the cell `config` and write `result.json` into `folder`.

    Args:
        config: Resolved, plain (`OmegaConf.to_container(..., resolve=True)`).
        folder: The cell's own; made if absent.

    Returns:
        The record as written; its status is `ok` or `diverged`. None in those processes of torchrun that write none.

    Raises:
        RefusedError: If the cell cannot be; recorded as `refused`.
        UserError: If the folder cannot be written, the data set is missing, or an option is wrong.
        Exception: Whatever the training raised; recorded as `error` or `oom`, its traceback in `error.txt`.
    """
    write_probe(folder)
    record = describe(config)
    try:
        study = build_study(config)
        return _study(study, config, folder, record) if study else _train(config, folder, record)
    except RefusedError as error:
        if _first_process():
            write_result(folder, CellResult(**record, status="refused", reason=str(error)))
        raise
    except Exception as error:
        if _first_process():
            (folder / "error.txt").write_text(traceback.format_exc())
            why = reason(error)
            out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "OutOfMemoryError" in why
            write_result(folder, CellResult(**record, status="oom" if out_of_memory else "error", reason=why))
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
        raise UserError(
            f"cannot write into {folder}: {error.strerror}; choose another folder with hydra.run.dir or hydra.sweep.dir"
        ) from error


def describe(config: Config) -> dict[str, Any]:
    """What a record says of a cell before it has trained."""
    gpu = on_gpu(config)
    return {
        "cell": cell_id(config),
        "config": dict(config),
        "seed": config["seed"],
        "time": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
        "device": {
            # A GPU's own name is asked for once the cell trains: asking starts CUDA in this process.
            "name": "cuda" if gpu else _processor(),
            "type": "cuda" if gpu else "cpu",
            "cores": os.cpu_count(),
            "threads": config["trainer"]["threads"],
        },
        "versions": {
            "python": platform.python_version(),
            **{
                package: version(package) for package in ("normzoo", "torch", "lightning", "torchmetrics", "hydra-core")
            },
        },
    }


def reason(error: BaseException) -> str:
    """The last line a traceback would print; of a process that training had started, that of its own."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[-1] if isinstance(error, ProcessRaisedException) else "\n".join(lines)


def _first_process() -> bool:
    """Whether this is the process that writes: under torchrun all of them run the whole program."""
    return os.environ.get("RANK", "0") == "0"


def _study(study: Callable[..., Any], config: Config, folder: Path, record: dict[str, Any]) -> CellResult:
    started = time.perf_counter()
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_num_threads(config["trainer"]["threads"])
    metrics, arrays = study(Parts(config))
    if arrays:
        write_recording(folder, arrays)
    result = CellResult(**record, status="ok", metrics=metrics)
    result.time["wall_s"] = time.perf_counter() - started
    write_result(folder, result)
    return read_result(folder)


def _train(config: Config, folder: Path, record: dict[str, Any]) -> CellResult | None:
    started = time.perf_counter()
    check_devices(config)
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_num_threads(config["trainer"]["threads"])
    data: Any = build_data(config)
    data.prepare_data()
    data.setup("fit")
    shapes = check_cell(config, data)
    model = build_model(config, data.image_shape, data.num_classes)
    few = [name for name, count in values_per_statistic(model, shapes)[0].items() if count == 2]
    if few:
        log.warning("each statistic of %s averages 2 values, so that a normalized value is only ±1", ", ".join(few))
    probes = build_probes(config)
    recorder = Recorder(folder, record, shapes, learning_rate(config), started, probes)
    trainer = build_trainer(config, folder, [EpochLines(), *probes, recorder])
    trainer.fit(Classifier(model, data.num_classes, config), datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return read_result(folder) if trainer.is_global_zero else None


def build_trainer(config: Config, folder: Path, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """The Lightning trainer of `config["trainer"]`; its strategy `auto` never starts a second copy of the program."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*treespec, LeafSpec.*"):
        warnings.filterwarnings("ignore", message)
    ours = ("name", "threads")
    arguments = {key: value for key, value in config["trainer"].items() if key not in ours}
    arguments["accelerator"] = "cuda" if on_gpu(config) else "cpu"
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if arguments["strategy"] == "auto" and arguments["devices"] * arguments["num_nodes"] > 1:
        # torchrun has started all processes already; otherwise they start from this one, because Lightning's own
        # launcher would run the command line again, and with it the whole sweep. CUDA does not outlive a fork.
        here = "ddp_spawn" if on_gpu(config) else "ddp_fork"
        arguments["strategy"] = "ddp" if torchrun else here
    logger_config = {key: value for key, value in config["logger"].items() if key != "name"}
    return lightning.Trainer(
        **arguments,
        callbacks=callbacks,
        # In a batch job Lightning would take the processes started here for those of the job.
        plugins=None if torchrun else [LightningEnvironment()],
        logger=instantiate(logger_config) if logger_config else False,
        default_root_dir=folder,
        use_distributed_sampler=False,  # the data modules share samples out themselves
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
