"""Convert values to plain data, which strict JSON can represent."""

import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from normzoo.text import LARGEST

_LEAVES = frozenset({str, bool, int, type(None)})  # these exact types need no conversion


def plain(value: Any, where: str, *, missing: str) -> Any:
    """Convert `value` to strict JSON data; a non-finite number becomes null, or its name as text.

    A number whose square overflows counts as non-finite.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value.name if isinstance(value, Enum) else value
    if isinstance(value, float):
        if math.isfinite(value) and (missing == "text" or abs(value) <= LARGEST):
            return float(value)
        return str(float(value)) if missing == "text" else None
    if isinstance(value, Mapping):
        return {
            str(key): entry if type(entry) in _LEAVES else plain(entry, f"{where}.{key}", missing=missing)
            for key, entry in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(entry, f"{where}[{i}]", missing=missing) for i, entry in enumerate(value)]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a NumPy or torch scalar
        return plain(value.item(), where, missing=missing)
    raise TypeError(f"{where} is a {type(value).__name__}, not plain data (text, number, list, mapping)")
