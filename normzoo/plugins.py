"""Load the norms of other packages by entry point, once, and report the plug-ins that fail."""

import importlib.metadata
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping

from normzoo.norm_info import NormInfo

ENTRY_POINT_GROUP = "normzoo.norms"

broken: dict[str, str] = {}
"""Plug-ins that failed to load, by entry point and distribution, with the reason."""
loading: str | None = None
"""The distribution whose plug-in is being imported."""
_loaded = False
_lock = threading.RLock()


def load_plugins(registered: Mapping[str, NormInfo], forget: Callable[[str], None]) -> None:
    """Import the plug-ins once; a plug-in that fails is reported by name and does not affect the others.

    Args:
        registered: The registry's table, to which the plug-ins add.
        forget: Removes a norm from it.
    """
    global _loaded, loading
    if _loaded:
        return
    with _lock:
        if _loaded or loading:
            return
        # Sorted, so that a conflict over a name has the same outcome on every machine.
        for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=_order):
            loading, _ = _order(entry_point)
            try:
                _load(entry_point, registered, forget)
            except (Exception, SystemExit) as error:
                broken[f"{entry_point.name!r} from {loading}"] = f"{type(error).__name__}: {error}"
            finally:
                loading = None
        _loaded = True
    # After the loop, so that a warning turned into an error does not stop the other plug-ins.
    for plugin, why in broken.items():
        warnings.warn(f"the normzoo plug-in {plugin} did not load and is ignored: {why}", stacklevel=3)


def _order(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Return the names of the entry point's distribution and of the entry point."""
    return entry_point.dist.name if entry_point.dist else entry_point.name, entry_point.name


def _load(
    entry_point: importlib.metadata.EntryPoint, registered: Mapping[str, NormInfo], forget: Callable[[str], None]
) -> None:
    try:
        loaded = entry_point.load()
    except (Exception, SystemExit):
        # Python drops a module that failed to import; forget the norms it had already registered.
        for norm in [norm for norm in list(registered.values()) if norm.build.__module__ not in sys.modules]:
            forget(norm.name)
        raise
    if not isinstance(loaded, types.ModuleType) and all(norm.build is not loaded for norm in registered.values()):
        raise LookupError(f"{entry_point.value} is not registered; decorate it with @normzoo.register")
