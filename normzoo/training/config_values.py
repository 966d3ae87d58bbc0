"""The values that the options of a configuration may have."""

import contextlib
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

from lightning import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from normzoo.errors import UserError
from normzoo.registry import UnknownNormError, info
from normzoo.training.distributed import DDP
from normzoo.training.trainable import CHOICES

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# Options of the optimizer; a cell without one has that of all cells before there was a choice.
_CHOICES = {
    "lr_rule": ("linear", "sqrt", "none"),
    "schedule": ("cosine", "step", "constant", "exponential"),
    "trains": tuple(CHOICES),
}

_Allows = Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> _Allows:
    return lambda value: type(value) is int and least <= value <= most


def _number(inside: _Allows) -> _Allows:
    return lambda value: type(value) in (int, float) and inside(value)


def _or_null(inside: _Allows) -> _Allows:
    return lambda value: value is None or inside(value)


def _limit(least: int) -> _Allows:
    share = _number(lambda value: 0 <= value <= 1 and (value > 0 or least == 0))
    return _or_null(lambda value: share(value) if type(value) is float else _whole(least)(value))


_COUNT = "a whole number, 1 or more"
_RANGES: dict[str, tuple[_Allows, str]] = {
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


def find_invalid(config: Mapping[str, Any]) -> str | None:
    """Return which value of a complete configuration is invalid and what it may be; None if all are valid."""
    try:
        _check_numbers(config)
        _check_trainer(config["trainer"])
        _check_choices(config)
    except UserError as error:
        return str(error)
    return None


def _check_numbers(config: Mapping[str, Any]) -> None:
    for name, (allows, what) in _RANGES.items():
        group, _, key = name.rpartition(".")
        options = (config.get(group) or {}) if group else config
        # A missing option is reported elsewhere.
        if key in options and options[key] != "???" and not allows(options[key]):
            if name == "trainer.max_epochs" and options[key] in (None, -1) and options.get("max_steps", -1) != -1:
                continue  # max_steps ends the training, and is checked by itself
            raise UserError(f"{name}={options[key]} must be {what}")


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the options, the precision and the strategy against what Lightning knows."""
    known = {"name", "threads", *_trainer_arguments()}
    for option in trainer:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1)
            meant = f"did you mean trainer.{near[0]}?" if near else "options: the arguments of lightning.Trainer"
            raise UserError(f"nothing reads trainer.{option}; {meant}")
    for option, names in _names_in_lightning().items():
        value = trainer.get(option)
        if value is not None and str(value) not in names:
            near = difflib.get_close_matches(str(value), names, n=2)
            meant = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}"
            raise UserError(f"trainer.{option}={value} is unknown to Lightning; {meant}")


@cache
def _trainer_arguments() -> frozenset[str]:
    return frozenset(inspect.signature(Trainer).parameters)


@cache
def _names_in_lightning() -> dict[str, list[str]]:
    names = {"strategy": sorted({*DDP, *StrategyRegistry.available_strategies()})}
    with contextlib.suppress(ImportError):  # where it has moved, Lightning itself rejects the value later
        from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT

        names["precision"] = sorted({str(name) for name in _literals(_PRECISION_INPUT)})
    return names


def _literals(annotation: Any) -> Iterator[Any]:
    for one in get_args(annotation):
        yield from _literals(one) if get_args(one) else (one,)


def _check_choices(config: Mapping[str, Any]) -> None:
    """Check that no option is missing, that choices exist, and that a schedule has its rate and its recipe."""
    missing = list(_missing_options(config))
    with contextlib.suppress(UnknownNormError):
        if info(config["norm"]["name"]).kind != "layer":  # rejected as such, whatever its options
            missing = [option for option in missing if not option.startswith("norm.")]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given: add {missing[0]}=<value>")
    optimizer = config["optimizer"]
    for option, choices in _CHOICES.items():
        if option in optimizer and optimizer[option] not in choices:
            raise UserError(f"unknown optimizer.{option}={optimizer[option]}; choose one of {', '.join(choices)}")
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
    """Yield the full names of the options that a config file leaves to the user (`???`)."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _missing_options(value, f"{within}{key}.")
        elif value == "???":
            yield f"{within}{key}"


def duration(name: str, value: object, *, zero: bool = False) -> float:
    """Parse a time, given as a number of seconds or as a text such as `90s`, `45m`, `2h` or `1h30m`, into seconds.

    Args:
        name: The option's, for the error.
        value: The time.
        zero: Allow 0.

    Raises:
        UserError: If it is not a time, or not positive.
    """
    how = "seconds or a text such as 90s, 45m, 2h or 1h30m"
    if isinstance(value, str) and not re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        if not re.fullmatch(r"(\s*\d+(\.\d+)?\s*[smhd])+\s*", value.lower()):
            raise UserError(f"{name}={value} is not a time; give {how}")
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value.lower())
        value = sum(float(count) * _UNITS[unit] for count, unit in parts)
    return positive(name, value, how, zero=zero)


def positive(name: str, value: object, unit: str, *, zero: bool = False) -> float:
    """Parse a positive number.

    Args:
        name: The option's, for the error.
        value: A number, or a text of one.
        unit: What it counts, for the error.
        zero: Allow 0.

    Raises:
        UserError: If it is not a positive number.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise UserError(f"{name}={value} must be a positive number of {unit}, or null for none")
    return number
