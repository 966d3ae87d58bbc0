"""Whether a model of the user's builds its norms by `norm`, and puts them where `placement` says."""

import json
import logging
from typing import Any

import torch
from torch import Tensor, nn

from normzoo._conformance.facts import operations
from normzoo.errors import UserError
from normzoo.probes._layers import all_norms
from normzoo.registry import info
from normzoo.training.config import CellConfig
from normzoo.training.instantiate import build_model

log = logging.getLogger("normzoo")

_known: dict[str, str | None] = {}


class _Marker(nn.BatchNorm2d):
    """In place of a norm: has what the code that initializes a model looks for, and computes what no model does."""

    def __init__(self, num_features: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features)

    def forward(self, input: Tensor) -> Tensor:
        return torch.i0(input)


def check_follows(config: CellConfig, data: Any) -> None:
    """Refuse a model that computes the same whatever `norm` is, or wherever `placement` puts it.

    Raises:
        UserError: Naming what it ignores, and the norms that it builds instead.
    """
    if str(config.model.get("_target_")).startswith("normzoo."):
        return  # its tests say the same
    plain = info(config.norm["name"]).name == "identity"
    key = json.dumps([config.model, config.placement, data.image_shape, data.num_classes, plain], default=str)
    if key not in _known:
        try:
            _known[key] = ignored(config, data, plain)
        except Exception:  # whatever the model may raise: it is asked again with its norm, and then says it to the user
            _known[key] = None
    if _known[key] is not None:
        raise UserError(_known[key])


def ignored(config: CellConfig, data: Any, plain: bool) -> str | None:
    """What the model ignores, in words; None if nothing.

    Args:
        plain: Whether the norm is `identity`, which a model without norms may be swept with.
    """
    title = f"model={config.model.get('name') or config.model.get('_target_')}"
    order, where = (config.placement.get(key, usual) for key, usual in (("order", "pre_act"), ("where", "all")))
    model, everywhere = _computes(config, data, order, "all")
    own = [f"{name} ({type(layer).__name__})" for name, layer in all_norms(model) if not isinstance(layer, _Marker)]
    listed = ", ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")
    if not any(name.startswith("i0.") for name in everywhere):
        if not own and (plain or where == "none"):
            return None
        has = f"it builds norms of its own: {listed}" if own else "it has none: norm=identity says so"
        return f"{title} ignores norm=; {has}; build norms by the `norm` that the model is given"
    if where != "all" and everywhere == _computes(config, data, order, "none")[1]:
        return f"{title} ignores placement.where={where}; leave it at all, or normalize where `placement.where` says"
    if order != "pre_act" and where != "none" and everywhere == _computes(config, data, "pre_act", "all")[1]:
        return f"{title} ignores placement.order={order}; leave it at pre_act, or follow `placement.order`"
    if own:
        log.info("%s keeps norms of its own, whatever norm= is: %s", title, listed)
    return None


def _computes(config: CellConfig, data: Any, order: str, where: Any) -> tuple[nn.Module, list[str]]:
    """The model with the marker for its norm, and the operations that a batch passes through."""
    placed = config.changed(placement={"order": order, "where": where})
    with torch.device("meta"), torch.no_grad():
        model = build_model(placed, data.image_shape, data.num_classes, _Marker)
        return model, operations(model.train(), (torch.empty(2, *data.image_shape),))
