"""The numbers of a configuration that no other check looks at, each held to where it makes sense."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from normzoo.errors import UserError

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


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse a number out of its range.

    Raises:
        UserError: Naming the option, its value and what it may be.
    """
    for name, (allows, what) in _RANGES.items():
        group, _, key = name.rpartition(".")
        options = (config.get(group) or {}) if group else config
        # An option that a group lacks, or that is still to be given, is spoken of elsewhere.
        if key in options and options[key] != "???" and not allows(options[key]):
            if name == "trainer.max_epochs" and options[key] in (None, -1) and options.get("max_steps", -1) != -1:
                continue  # that is what ends the training then, and is looked at by itself
            raise UserError(f"{name}={options[key]} must be {what}")
