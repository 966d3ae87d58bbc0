"""Convert the norms of a model that builds its own to the norm of a cell."""

import logging
from typing import Any

from torch import nn

from normzoo.errors import UserError
from normzoo.models.blocks import Placement
from normzoo.registry import info
from normzoo.surgery.convert import convert
from normzoo.surgery.identify import find_norms

log = logging.getLogger("normzoo")
_kept: set[tuple[str, str]] = set()  # told already


def convert_norms(title: str, model: nn.Module, norm: dict[str, Any], placement: Placement) -> None:
    """Convert a model's norms, in place: those of `placement.where`; the others are taken out.

    A stage of such a model is one of its norms, counted in the order in which they are registered.

    Args:
        title: The model's, for messages, such as `model=resnet18`.
        model: Built with norms of its own.
        norm: The group `norm`: its name and options.
        placement: Which norms are converted.

    Raises:
        UserError: If the model has no norms, if none can become that norm, or if the placement needs another order.
    """
    name, options = norm["name"], {key: value for key, value in norm.items() if key not in ("name", "_target_")}
    names = [found for found, _, _ in find_norms(model)]
    if not names:
        if info(name).name == "identity" or placement.where == "none":
            return
        raise UserError(
            f"{title} has no norms that could become {name}: choose norm=identity, or give its constructor an argument "
            "`norm`, which is called with a number of channels and returns a norm"
        )
    if placement.order != "pre_act":
        raise UserError(
            f"{title} takes no `placement`, so that its norms are converted where they are: leave placement.order at "
            "pre_act, or follow `placement.order` in its constructor"
        )
    there = {found for stage, found in enumerate(names) if placement.at(stage, len(names))}
    rows = [*convert(model, name, where=lambda found, _: found in there, **options)] if there else []
    if len(there) < len(names):
        convert(model, "identity", where=lambda found, _: found not in there)
    kept = [row for row in rows if row.name in there and row.action == "kept" and not row.reason.endswith("already")]
    if kept and len(kept) == len(there):
        raise UserError(f"{title} has no norm that can become {name}: {kept[0].name} ({kept[0].was}): {kept[0].reason}")
    if kept and (title, name) not in _kept:
        _kept.add((title, name))
        log.warning(
            "%s keeps %d of its norms: %s (%s): %s", title, len(kept), kept[0].name, kept[0].was, kept[0].reason
        )
