"""The `sweep` block of a configuration, checked."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normzoo.errors import UserError

RETRY = ("none", "failed", "all")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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


def sweep_options(config: Mapping[str, Any]) -> SweepOptions:
    """The options of `config["sweep"]`, resolved and plain; what is left out has its default.

    Raises:
        UserError: If one is none of what it can be.
    """
    given = dict(config.get("sweep") or {})
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
    """Seconds, from a number of them or from a text such as `90s`, `45m`, `2h` or `1h30m`.

    Args:
        name: Of the option, for the error.
        zero: Whether 0 is allowed.

    Raises:
        UserError: If it is neither, or not positive.
    """
    how = "seconds or a text such as 90s, 45m, 2h or 1h30m"
    if isinstance(value, str) and not _number(value):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value.lower())
        if not parts or not re.fullmatch(r"(\s*\d+(\.\d+)?\s*[smhd])+\s*", value.lower()):
            raise UserError(f"{name}={value} is no time; give {how}")
        value = sum(float(count) * SECONDS[unit] for count, unit in parts)
    return _positive(name, value, how, zero=zero)


def _number(value: str) -> bool:
    return re.fullmatch(r"\s*\d+(\.\d+)?\s*", value) is not None


def _positive(name: str, value: object, how: str, *, zero: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise UserError(f"{name}={value} must be a positive number of {how}, or null for none")
    return number
