"""Every normalization layer for PyTorch under a name.

`normzoo.create("group_norm", 64)` builds a layer, `normzoo.factory("group_norm")` is what a model takes as
`norm_layer=`, `normzoo.list_norms()` and `normzoo.info("group_norm")` say what there is.
"""

import importlib
from types import ModuleType

from normzoo import _interrupt as _interrupt  # before anything that takes its time
from normzoo.errors import UserError
from normzoo.registry import (
    NormInfo,
    UnknownArgumentError,
    UnknownNormError,
    create,
    factory,
    info,
    list_norms,
    norm_layers,
    register,
)

__version__ = "0.1.0"

__all__ = [
    "NormInfo",
    "UnknownArgumentError",
    "UnknownNormError",
    "UserError",
    "__version__",
    "create",
    "factory",
    "info",
    "list_norms",
    "norm_layers",
    "register",
]

# The layers register themselves on import, which needs the registry above.
from normzoo import norms as norms

_ON_DEMAND = ("models", "preprocessing", "probes", "surgery", "testing")


def __getattr__(name: str) -> ModuleType:
    """The rooms that are imported when they are first named, as `normzoo.probes`."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"normzoo.{name}")
    raise AttributeError(f"module 'normzoo' has no attribute {name!r}")
