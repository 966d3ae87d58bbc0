"""One cell's configuration, parsed once: recipe applied, defaults filled in, checked, and what follows from it."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from normzoo.errors import UserError
from normzoo.results import cell_id
from normzoo.training.config_check import check_keys, find_invalid
from normzoo.training.defaults import complete
from normzoo.training.resources import Resources

RETRY = ("none", "failed", "all")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_RULES: dict[str, Callable[[float], float]] = {"linear": float, "sqrt": math.sqrt, "none": lambda ratio: 1.0}


@dataclass(frozen=True)
class TrainerOptions:
    """The group `trainer`: what normzoo reads of it, and as `arguments` what Lightning's trainer takes."""

    arguments: dict[str, Any]
    name: str | None = None
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    max_epochs: int | None = None
    max_steps: int = -1
    accumulate_grad_batches: int = 1
    limit_train_batches: int | float | None = 1.0
    precision: int | str | None = None
    threads: int = 1


@dataclass(frozen=True)
class OptimizerOptions:
    """The group `optimizer`: what normzoo reads of it, and as `arguments` what torch's optimizer takes."""

    arguments: dict[str, Any]
    base_lr: float
    name: str | None = None
    base_batch: int = 32
    lr_rule: str = "linear"
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    decay_rate: float = math.nan
    decay_every: float = math.nan
    warmup: float = 0.0
    trains: str = "all"


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep's cells run; nothing here decides what comes of them.

    Args:
        resume: Whether cells that an earlier run finished are skipped and half-done ones continued.
        retry: Which others run again on resume: `none`, `failed` (error, killed, oom, timeout) or `all`.
        dry_run: Whether the plan is printed and nothing trains.
        time_limit: Seconds a cell may take; None without limit.
        memory_limit: GiB of memory that a cell's processes may have for themselves; None without limit.
        stall_limit: Seconds for which a cell that has begun may end no batch and print nothing; None without limit.
        checkpoint_every: Seconds between two checkpoints of a cell at least; None for none at all.
    """

    resume: bool = True
    retry: str = "none"
    dry_run: bool = False
    time_limit: float | None = None
    memory_limit: float | None = None
    stall_limit: float | None = 300.0
    checkpoint_every: float | None = 60.0


@dataclass(frozen=True)
class CellConfig:
    """What a cell is, from `parse`.

    Args:
        plain: As Hydra resolves it, complete and its recipe applied: what the record and the identity hold.
        seed: Of everything drawn.
        batch_size_per_device: What BatchNorm sees.
        norm, placement, model, data, logger, probe, study, evaluation: Options by name, as the things take them.
        trainer: Of the trainer.
        optimizer: Of the optimizer and its schedule.
        sweep: How the cell runs; nothing there decides what comes of it.
        invalid: Why it cannot be, as far as that can be told without its data and model; None if nothing is wrong. It
            is no error yet, since the cell's record is to say so.
    """

    plain: dict[str, Any]
    seed: int
    batch_size_per_device: int
    norm: dict[str, Any]
    placement: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    logger: dict[str, Any]
    probe: dict[str, Any]
    study: dict[str, Any]
    evaluation: dict[str, Any]
    trainer: TrainerOptions
    optimizer: OptimizerOptions
    sweep: SweepOptions
    invalid: str | None

    @cached_property
    def identity(self) -> str:
        """The cell's name, by what decides its result."""
        return cell_id(self.plain)

    @property
    def world_size(self) -> int:
        """Processes that train together, on all machines."""
        return self.trainer.devices * self.trainer.num_nodes

    @property
    def batch_over_devices(self) -> int:
        """Samples that all processes pass through their models at once."""
        return self.batch_size_per_device * self.world_size

    @property
    def global_batch(self) -> int:
        """Samples for each optimizer step: the batches of all processes over which gradients are accumulated."""
        return self.batch_over_devices * self.trainer.accumulate_grad_batches

    @property
    def lr(self) -> float:
        """The peak learning rate: `base_lr` scaled from `base_batch` to the global batch by `lr_rule`.

        linear: Goyal et al. 2017 (arXiv:1706.02677), section 2.1; sqrt: Krizhevsky 2014 (arXiv:1404.5997), section 5.
        """
        return self.optimizer.base_lr * _RULES[self.optimizer.lr_rule](self.global_batch / self.optimizer.base_batch)

    @property
    def on_gpu(self) -> bool:
        """Whether the cell trains on GPUs of this machine."""
        return self.trainer.accelerator != "cpu" and torch.cuda.device_count() > 0

    @property
    def resources(self) -> Resources:
        """What the cell needs of this machine."""
        return self.resources_on(gpu=self.on_gpu)

    def resources_on(self, *, gpu: bool) -> Resources:
        """Count a GPU for each process if it trains on GPUs, and cores for its processes and data workers."""
        devices = self.trainer.devices
        cores = devices * (self.trainer.threads + self.data.get("num_workers", 0))
        return Resources(devices if gpu else 0, cores)

    def changed(self, **groups: Any) -> "CellConfig":
        """The cell with other groups."""
        return _typed({**self.plain, **groups})


def parse(config: Mapping[str, Any] | CellConfig, overrides: Iterable[str] = (), raw: str = "") -> CellConfig:
    """Parse a configuration as Hydra resolves it; what is parsed already is left as it is.

    Args:
        config: Plain; it is left as it is.
        overrides: That it was composed from.
        raw: Its text before references were resolved: a key that others refer to is read.

    Raises:
        UserError: If something is missing, nothing reads a key, or the recipe or the options of the sweep cannot be.
            Of another value that cannot be `CellConfig.invalid` says why.
    """
    if isinstance(config, CellConfig):
        return config
    whole = complete(config)
    check_keys(whole, overrides, raw)
    return _typed(whole)


def _typed(whole: dict[str, Any]) -> CellConfig:
    trainer = {key: value for key, value in whole["trainer"].items() if key not in ("name", "threads")}
    ours = {field.name for field in fields(OptimizerOptions)} - {"arguments"}
    optimizer = {key: value for key, value in whole["optimizer"].items() if key not in ours}
    groups = ("norm", "placement", "model", "data", "logger", "probe", "study", "evaluation")
    return CellConfig(
        plain=whole,
        seed=whole["seed"],
        batch_size_per_device=whole["batch_size_per_device"],
        trainer=_read(TrainerOptions, whole["trainer"], trainer),
        optimizer=_read(OptimizerOptions, whole["optimizer"], optimizer),
        sweep=sweep_options(whole.get("sweep")),
        invalid=find_invalid(whole),
        **{group: whole.get(group) or {} for group in groups},
    )


def _read(kind: Any, group: Mapping[str, Any], arguments: dict[str, Any]) -> Any:
    known = {field.name for field in fields(kind)} - {"arguments"}
    return kind(arguments=arguments, **{key: value for key, value in group.items() if key in known})


def sweep_options(block: Mapping[str, Any] | None) -> SweepOptions:
    """Parse the block `sweep`, resolved and plain; what is left out has its default.

    Raises:
        UserError: If one is none of what it can be.
    """
    given = dict(block or {})
    known = SweepOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise UserError(f"sweep.{name} is unknown; there are {', '.join(f'sweep.{option}' for option in known)}")
    for name in ("resume", "dry_run"):
        if not isinstance(given.get(name, True), bool):
            raise UserError(f"sweep.{name}={given[name]} must be true or false")
    if given.get("retry", "none") not in RETRY:
        raise UserError(f"sweep.retry={given['retry']} must be one of {', '.join(RETRY)}")
    if given.get("memory_limit") is not None:
        given["memory_limit"] = _positive("sweep.memory_limit", given["memory_limit"], "GiB, such as 4 or 0.5")
    for name, zero in (("time_limit", False), ("stall_limit", False), ("checkpoint_every", True)):
        if given.get(name) is not None:
            given[name] = duration(f"sweep.{name}", given[name], zero=zero)
    return SweepOptions(**given)


def duration(name: str, value: object, *, zero: bool = False) -> float:
    """Parse seconds, from a number of them or from a text such as `90s`, `45m`, `2h` or `1h30m`.

    Args:
        name: Of the option, for the error.
        zero: Whether 0 is allowed.

    Raises:
        UserError: If it is neither, or not positive.
    """
    how = "seconds or a text such as 90s, 45m, 2h or 1h30m"
    if isinstance(value, str) and not re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value.lower())
        if not parts or not re.fullmatch(r"(\s*\d+(\.\d+)?\s*[smhd])+\s*", value.lower()):
            raise UserError(f"{name}={value} is no time; give {how}")
        value = sum(float(count) * SECONDS[unit] for count, unit in parts)
    return _positive(name, value, how, zero=zero)


def _positive(name: str, value: object, how: str, *, zero: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise UserError(f"{name}={value} must be a positive number of {how}, or null for none")
    return number
