"""One cell's configuration, parsed once: defaults filled in, recipe applied, checked, and what follows from it."""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from normzoo.errors import UserError
from normzoo.identity import cell_id
from normzoo.training.config_keys import check_keys, complete
from normzoo.training.config_values import duration, find_invalid, positive

RETRY = ("none", "failed", "all")
PRUNES = ("none", "median", "hyperband")
SAVES = ("none", "last", "best")

_RULES: dict[str, Callable[[float], float]] = {"linear": float, "sqrt": math.sqrt, "none": lambda ratio: 1.0}


@dataclass(frozen=True)
class Resources:
    """What a cell needs of a machine: GPUs, and processor cores, which count only if it needs no GPU."""

    gpus: int = 0
    cores: int = 1


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
    """The group `sweep`: how cells run; nothing here changes their results.

    Args:
        resume: Skip cells that an earlier run finished, and resume cells from their checkpoints.
        retry: Which others run again on resume: `none`, `failed` (error, killed, oom, timeout) or `all`.
        dry_run: Print the plan and train nothing.
        time_limit: Seconds a cell may take; None for no limit.
        memory_limit: GiB of private memory for all processes of a cell; None for no limit.
        stall_limit: Seconds a started cell may go without finishing a batch or printing; None for no limit.
        checkpoint_every: Minimum seconds between two checkpoints of a cell; None for no checkpoints.
        save: Which weights a cell keeps: `none`, `last` or `best`.
        prune: How a search ends trials early that do worse than others: `none`, `median` or `hyperband`.
        stop_after_failures: How many first cells that fail with the same error end a sweep; None for any number.
    """

    resume: bool = True
    retry: str = "none"
    dry_run: bool = False
    time_limit: float | None = None
    memory_limit: float | None = None
    stall_limit: float | None = 300.0
    checkpoint_every: float | None = 60.0
    save: str = "none"
    stop_after_failures: int | None = 8
    prune: str = "none"


@dataclass(frozen=True)
class CellConfig:
    """The configuration of one cell, as `parse` returns it.

    Args:
        plain: The resolved configuration, complete and with its recipe applied, as recorded and identified.
        seed: Seed of all random numbers.
        batch_size_per_device: The batch that BatchNorm sees.
        train_samples, population_samples: How many samples the training error and population statistics are computed
            on; None for all.
        norm, placement, model, data, logger, probe, callbacks, study: Each group's options, as its constructor takes
            them.
        trainer, optimizer, sweep: Typed options.
        invalid: Why the cell cannot run, as far as its values tell without data and model; None if they are valid.
            Not raised here, since the cell's record states it.
    """

    plain: dict[str, Any]
    seed: int
    batch_size_per_device: int
    train_samples: int | None
    population_samples: int | None
    norm: dict[str, Any]
    placement: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    logger: dict[str, Any]
    probe: dict[str, Any]
    callbacks: dict[str, Any]
    study: dict[str, Any]
    trainer: TrainerOptions
    optimizer: OptimizerOptions
    sweep: SweepOptions
    invalid: str | None

    @cached_property
    def identity(self) -> str:
        """The cell's name: a hash of what decides its result."""
        return cell_id(self.plain)

    @property
    def world_size(self) -> int:
        """The number of processes that train together, on all machines."""
        return self.trainer.devices * self.trainer.num_nodes

    @property
    def batch_over_devices(self) -> int:
        """The number of samples that all processes pass through their models at once."""
        return self.batch_size_per_device * self.world_size

    @property
    def global_batch(self) -> int:
        """The number of samples per optimizer step: of all processes and all accumulated batches."""
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
        """Return the cell with other groups."""
        return _typed({**self.plain, **groups})


def parse(config: Mapping[str, Any] | CellConfig, overrides: Iterable[str] = (), raw: str = "") -> CellConfig:
    """Parse a resolved configuration; return a parsed one as it is.

    Args:
        config: Plain, as `OmegaConf.to_container(..., resolve=True)` returns it; not modified.
        overrides: The overrides it was composed from.
        raw: Its text before interpolation, in which a referenced key counts as read.

    Raises:
        UserError: If a required key is missing, a key is not read, or the recipe or the options of the sweep are
            wrong. `CellConfig.invalid` tells of other invalid values.
    """
    if isinstance(config, CellConfig):
        return config
    whole = complete(config)
    check_keys(whole, overrides, raw)
    return _typed(whole)


def _typed(whole: dict[str, Any]) -> CellConfig:
    groups = ("norm", "placement", "model", "data", "logger", "probe", "callbacks", "study")
    return CellConfig(
        plain=whole,
        seed=whole["seed"],
        batch_size_per_device=whole["batch_size_per_device"],
        train_samples=whole["evaluation"]["train_samples"],
        population_samples=whole["evaluation"]["population_samples"],
        trainer=_read(TrainerOptions, whole["trainer"], ours={"name", "threads"}),
        optimizer=_read(OptimizerOptions, whole["optimizer"]),
        sweep=sweep_options(whole.get("sweep")),
        invalid=find_invalid(whole),
        **{group: whole.get(group) or {} for group in groups},
    )


def _read(kind: Any, group: Mapping[str, Any], ours: Container[str] | None = None) -> Any:
    """Read the fields of `kind`; options that are not `ours`, by default those that are no field, are arguments."""
    known = {field.name for field in fields(kind)} - {"arguments"}
    ours = known if ours is None else ours
    arguments = {key: value for key, value in group.items() if key not in ours}
    return kind(**{key: value for key, value in group.items() if key in known}, arguments=arguments)


def sweep_options(block: Mapping[str, Any] | None) -> SweepOptions:
    """Parse the resolved block `sweep`; missing options have their defaults.

    Raises:
        UserError: If an option is unknown or has a wrong value.
    """
    given = dict(block or {})
    known = [field.name for field in fields(SweepOptions)]
    for name in given:
        if name not in known:
            raise UserError(f"unknown option sweep.{name}; options: {', '.join(f'sweep.{option}' for option in known)}")
    for name in ("resume", "dry_run"):
        if not isinstance(given.get(name, True), bool):
            raise UserError(f"sweep.{name}={given[name]} must be true or false")
    for name, choices in (("retry", RETRY), ("save", SAVES), ("prune", PRUNES)):
        if given.get(name, "none") not in choices:
            raise UserError(f"sweep.{name}={given[name]} must be one of {', '.join(choices)}")
    failures = given.get("stop_after_failures", 1)
    if failures is not None and not (type(failures) is int and failures >= 1):
        raise UserError(f"sweep.stop_after_failures={failures} must be a whole number, 1 or more, or null for never")
    if given.get("memory_limit") is not None:
        given["memory_limit"] = positive("sweep.memory_limit", given["memory_limit"], "GiB, such as 4 or 0.5")
    for name, zero in (("time_limit", False), ("stall_limit", False), ("checkpoint_every", True)):
        if given.get(name) is not None:
            given[name] = duration(f"sweep.{name}", given[name], zero=zero)
    return SweepOptions(**given)
