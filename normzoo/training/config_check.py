"""What a configuration may say: its keys, its numbers and its names."""

import contextlib
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_args

from lightning import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from normzoo.errors import UserError
from normzoo.registry import UnknownNormError, info
from normzoo.training.distributed import DDP
from normzoo.training.trainable import CHOICES

GROUPS = ("norm", "placement", "model", "data", "optimizer", "trainer", "logger", "probe", "study", "recipe")

# What is read where not every key of a group reaches a constructor, which refuses those it does not take.
_READ = {
    "": {*GROUPS, "seed", "batch_size_per_device", "evaluation", "sweep", "claim", "hydra"},
    "evaluation": {"train_samples", "population_samples"},
    "claim": {"name", "statement", "source", "quick", "grids"},
}

# Arguments that normzoo itself gives, and the option that decides them, if one does.
GIVEN = {
    "model.norm": "norm",
    "model.placement": "placement",
    "model.in_channels": None,
    "model.num_classes": None,
    "data.batch_size": "batch_size_per_device",
    "data.seed": "seed",
    "optimizer.lr": "optimizer.base_lr",
    "optimizer.params": "optimizer.trains",
    "trainer.callbacks": "probe",
    "trainer.logger": "logger",
    "trainer.default_root_dir": "hydra.run.dir",
    "trainer.plugins": None,
    "trainer.use_distributed_sampler": None,
    "trainer.num_sanity_val_steps": None,
    "trainer.enable_model_summary": None,
}

_SEVERAL = re.compile(rf"\+*({'|'.join(set(GROUPS) - {'probe'})})(?:@\S*)?=\[(.*,.*)\]")

# Of the optimizer's options; a cell without one has that of all cells before there was a choice.
_CHOICES = {
    "lr_rule": ("linear", "sqrt", "none"),
    "schedule": ("cosine", "step", "constant", "exponential"),
    "trains": tuple(CHOICES),
}

_Is = Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> _Is:
    return lambda value: type(value) is int and least <= value <= most


def _number(inside: _Is) -> _Is:
    return lambda value: type(value) in (int, float) and inside(value)


def _or_null(inside: _Is) -> _Is:
    return lambda value: value is None or inside(value)


def _limit(least: int) -> _Is:
    share = _number(lambda value: 0 <= value <= 1 and (value > 0 or least == 0))
    return _or_null(lambda value: share(value) if type(value) is float else _whole(least)(value))


_COUNT = "a whole number, 1 or more"
_RANGES: dict[str, tuple[_Is, str]] = {
    "seed": (_whole(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    "batch_size_per_device": (_whole(1), _COUNT),
    "trainer.devices": (_whole(1), _COUNT),
    "trainer.num_nodes": (_whole(1), _COUNT),
    "trainer.accumulate_grad_batches": (_whole(1), _COUNT),
    "trainer.max_epochs": (_whole(1), f"{_COUNT}, or null where trainer.max_steps ends the training"),
    "trainer.max_steps": (lambda value: value == -1 or _whole(1)(value), f"{_COUNT}, or -1 for no end"),
    "trainer.threads": (_whole(1), _COUNT),
    "trainer.check_val_every_n_epoch": (
        _or_null(_whole(1)),
        f"{_COUNT}, or null where trainer.val_check_interval counts batches of all epochs",
    ),
    "trainer.limit_train_batches": (_limit(1), "a number of batches, 1 or more, or a share of them, up to 1.0"),
    "trainer.limit_val_batches": (_limit(0), "a number of batches, 0 or more, or a share of them, up to 1.0"),
    "trainer.gradient_clip_val": (_or_null(_number(lambda value: 0 <= value < math.inf)), "a number, 0 or more"),
    "optimizer.base_lr": (_number(lambda value: 0 <= value < math.inf), "a number, 0 or more"),
    "optimizer.base_batch": (_number(lambda value: 0 < value < math.inf), "a positive number"),
    "optimizer.momentum": (_number(lambda value: 0 <= value < 1), "a number from 0 to less than 1"),
    "optimizer.warmup": (_number(lambda value: 0 <= value <= 1), "a share of all steps, from 0 to 1"),
    "optimizer.milestones": (
        lambda value: type(value) is list and all(map(_number(lambda share: 0 <= share <= 1), value)),
        "a list of shares of all steps, from 0 to 1",
    ),
    "evaluation.train_samples": (_or_null(_whole(1)), f"{_COUNT}, or null for all"),
    "evaluation.population_samples": (_or_null(_whole(1)), f"{_COUNT}, or null for all"),
}


def check_keys(config: Mapping[str, Any], overrides: Iterable[str] = (), raw: str = "") -> None:
    """Refuse what nothing reads, and what is given elsewhere.

    Args:
        config: Complete.
        overrides: That it was composed from.
        raw: Its text before references were resolved: a key that others refer to is read.

    Raises:
        UserError: Naming the key, and the one that was meant.
    """
    overrides = list(overrides)
    for line in overrides:
        several = _SEVERAL.fullmatch(line)
        if several:
            group, first = several[1], several[2].split(",")[0].strip()
            raise UserError(f"{line}: a cell has one {group}: choose {group}={first}, or sweep over several with -m")
    for key in unread(config):
        name = key.rpartition(".")[2]
        if not re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", "\n".join([raw, *overrides])):
            raise UserError(f"nothing reads {key}; {meant_by(key)}")
    for name, probe in (config.get("probe") or {}).items():
        if not isinstance(probe, Mapping) or "_target_" not in probe:
            raise UserError(f"probe.{name}={probe!r:.60} is no probe: a mapping with a _target_, or probe=[{name}]")
    for group in ("study", "logger"):
        options = set(config.get(group) or {}) - {"name"}
        if options and "_target_" not in options:
            raise UserError(f"{group} has {', '.join(sorted(map(str, options)))} and no _target_ that takes it")


def unread(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys that nothing reads, or that normzoo gives itself."""
    for group, known in _READ.items():
        options = (config.get(group) or {}) if group else config
        yield from (f"{group}.{key}".lstrip(".") for key in options if key not in known)
    for name in GIVEN:
        group, _, key = name.partition(".")
        if key in config[group]:
            yield name


def meant_by(key: str, known: Sequence[str] | None = None) -> str:
    """What a key that nothing reads was meant to be.

    Args:
        known: The names it may have within its group.
    """
    group, _, name = key.rpartition(".")
    if key in GIVEN:
        return f"write {GIVEN[key]}=..." if GIVEN[key] else "normzoo gives it itself"
    known = sorted(known or _READ[group])
    near = [f"{group}.{one}".lstrip(".") for one in difflib.get_close_matches(name, known, n=1)]
    return f"did you mean {near[0]}?" if near else f"{group or 'a cell'} has {', '.join(known)}"


def find_invalid(config: Mapping[str, Any]) -> str | None:
    """Say which value of a configuration is none that it may have, and what it may be; None if all are."""
    try:
        _check_numbers(config)
        _check_trainer_names(config["trainer"])
        _check_choices(config)
    except UserError as error:
        return str(error)
    return None


def _check_numbers(config: Mapping[str, Any]) -> None:
    for name, (allows, what) in _RANGES.items():
        group, _, key = name.rpartition(".")
        options = (config.get(group) or {}) if group else config
        # An option that a group lacks, or that is still to be given, is spoken of elsewhere.
        if key in options and options[key] != "???" and not allows(options[key]):
            if name == "trainer.max_epochs" and options[key] in (None, -1) and options.get("max_steps", -1) != -1:
                continue  # that is what ends the training then, and is looked at by itself
            raise UserError(f"{name}={options[key]} must be {what}")


def _check_trainer_names(trainer: Mapping[str, Any]) -> None:
    """Refuse an option, a precision or a strategy that Lightning does not know."""
    known = {"name", "threads", *_trainer_arguments()}
    for option in trainer:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1)
            meant = f"did you mean trainer.{near[0]}?" if near else "there are those of lightning.Trainer"
            raise UserError(f"nothing reads trainer.{option}; {meant}")
    for option, names in _lightnings_names().items():
        value = trainer.get(option)
        if value is not None and str(value) not in names:
            near = difflib.get_close_matches(str(value), names, n=2)
            meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
            raise UserError(f"trainer.{option}={value} is none that Lightning knows; {meant}")


@cache
def _trainer_arguments() -> frozenset[str]:
    return frozenset(inspect.signature(Trainer).parameters)


@cache
def _lightnings_names() -> dict[str, list[str]]:
    names = {"strategy": sorted({*DDP, *StrategyRegistry.available_strategies()})}
    with contextlib.suppress(ImportError):  # a Lightning that keeps the list elsewhere says it later
        from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT

        names["precision"] = sorted({str(name) for name in _literals(_PRECISION_INPUT)})
    return names


def _literals(annotation: Any) -> Iterator[Any]:
    for one in get_args(annotation):
        yield from _literals(one) if get_args(one) else (one,)


def _check_choices(config: Mapping[str, Any]) -> None:
    """Refuse what is still to be given, a choice that there is not, and a rate or recipe that its schedule lacks."""
    missing = list(_missing_options(config))
    with contextlib.suppress(UnknownNormError):
        if info(config["norm"]["name"]).kind != "layer":  # refused as such, whatever its options
            missing = [option for option in missing if not option.startswith("norm.")]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given: add {missing[0]}=<value>")
    optimizer = config["optimizer"]
    for option, choices in _CHOICES.items():
        if option in optimizer and optimizer[option] not in choices:
            raise UserError(f"optimizer.{option}={optimizer[option]} is none; choose one of {', '.join(choices)}")
    exponential = optimizer["schedule"] == "exponential"
    for option in ("decay_rate", "decay_every") if exponential else ():
        if not _number(lambda rate: 0 < rate < math.inf)(optimizer.get(option)):
            raise UserError(
                f"optimizer.{option}={optimizer.get(option)!r} must be a positive number with "
                "optimizer.schedule=exponential"
            )
    decay = ((config.get("recipe") or {}).get("applied") or {}).get("decay", 1)
    if decay != 1 and not exponential:
        raise UserError(
            f"recipe.decay={decay} needs a schedule that decays at a rate, and optimizer.schedule is "
            f"{optimizer['schedule']}: set optimizer.schedule=exponential, or recipe.decay=1"
        )


def _missing_options(config: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Give the options that a config file leaves to be given (`???`), by their full names."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _missing_options(value, f"{within}{key}.")
        elif value == "???":
            yield f"{within}{key}"
