"""Every normalization layer for PyTorch under a name.

`normzoo.create("group_norm", 64)` builds a layer, `normzoo.factory("group_norm")` is what a model takes as
`norm_layer=`, `normzoo.list_norms()` and `normzoo.info("group_norm")` say what there is.
"""

import importlib
from typing import Any

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

_ON_DEMAND = ("models", "preprocessing", "probes", "results", "surgery", "testing")
_CELLS = {"curves": "report.data_frames", "load": "training.saved"}
"""Functions on the cells of a sweep, and the modules that they are in."""
_SURGERY = {
    "adapt": "adapt",
    "advise": "advise",
    "convert": "convert",
    "doctor": "doctor",
    "fold": "fold",
    "freeze": "freeze",
    "no_weight_decay_groups": "freeze",
    "recalibrate": "recalibrate",
    "train_only_norms": "freeze",
    "unfreeze": "freeze",
}
"""Functions on the norms of a model, and the modules of `normzoo.surgery` that they are in."""


def __getattr__(name: str) -> Any:
    """Import packages, as `normzoo.probes`, and functions, as `normzoo.convert`, when they are first named."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"normzoo.{name}")
    if name in _SURGERY:
        return getattr(importlib.import_module(f"normzoo.surgery.{_SURGERY[name]}"), name)
    if name in _CELLS:
        try:
            return getattr(importlib.import_module(f"normzoo.{_CELLS[name]}"), name)
        except ModuleNotFoundError as error:
            raise UserError(f"normzoo.{name} needs {error.name}: pip install 'normzoo[sweep]'") from error
    raise AttributeError(f"module 'normzoo' has no attribute {name!r}")
