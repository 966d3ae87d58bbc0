"""What a factory calls: a norm alone, or a norm with its activation where a timm model asks for both in one."""

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from normzoo.arguments import check_num_features, check_values


class NormAct(nn.Sequential):
    """A norm, then an activation, under the names `norm` and `act`; weights saved for the norm alone load too.

    Shape: as the norm's.
    """

    norm: nn.Module

    def __init__(self, norm: nn.Module, *after: tuple[str, nn.Module]) -> None:
        super().__init__(OrderedDict([("norm", norm), *after]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # timm keeps the weights of its norm-and-activation layers under the norm's plain names.
        for key in self.norm.state_dict():
            if prefix + key in state_dict:
                state_dict[f"{prefix}norm.{key}"] = state_dict.pop(prefix + key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def build_norm(
    num_features: int | nn.Module,
    *,
    build: Callable[..., nn.Module],
    act_layer: Any = None,
    apply_act: bool = True,
    act_kwargs: dict[str, Any] | None = None,
    drop_layer: Callable[[], nn.Module] | None = None,
    inplace: bool | None = None,
    **kwargs: Any,
) -> nn.Module:
    """`build(num_features, **kwargs)`, followed by the activation where one is asked for.

    Args:
        num_features: Channels, or the module whose weight a norm is for.
        build: The registered class or function; a wrong keyword among `kwargs` is refused by it.
        act_layer: Activation as timm gives it (a class, a function or a name); None for none.
        apply_act: False leaves the activation out, as timm asks after a linear bottleneck.
        act_kwargs: Keywords of the activation.
        drop_layer: Called for a layer between norm and activation, such as DropBlock.
        inplace: Taken because timm passes it, but not followed: a norm may need its output for its backward.
    """
    # timm hands device and dtype to every layer, also as None; a plug-in need not take them.
    unset = {name for name in ("device", "dtype") if kwargs.get(name, 0) is None}
    for name in unset - set(inspect.signature(build).parameters) if unset else ():
        del kwargs[name]
    title = getattr(build, "__name__", "the norm")
    check_num_features(title, build, num_features)
    check_values(title, build, kwargs)
    norm = build(num_features, **kwargs)
    after: list[tuple[str, nn.Module]] = []
    if drop_layer is not None:
        after.append(("drop", drop_layer()))
    if act_layer is not None and apply_act and not getattr(norm, "includes_activation", False):
        after.append(("act", _activation(act_layer, act_kwargs or {})))
    return NormAct(norm, *after) if after else norm


def _activation(act_layer: Any, act_kwargs: dict[str, Any]) -> nn.Module:
    if not isinstance(act_layer, str):
        return act_layer(**act_kwargs)
    from timm.layers.create_act import create_act_layer  # only timm gives an activation by name

    return create_act_layer(act_layer, **act_kwargs)


class NormFactory(functools.partial[nn.Module]):
    """A `functools.partial` of `build_norm` that timm's models can take apart.

    timm's EfficientNet, MobileNet, RegNet, DenseNet and others unbind `func` and look it up: a class they replace
    with timm's own norm of the same class name or refuse, a function they call for norm and activation in one, and
    tell it which activation only if it is in a certain set. So `func` is a function, and enters that set when read.
    """

    @property
    def func(self) -> Callable[..., nn.Module]:
        timm = sys.modules.get("timm.layers.create_norm_act")
        if timm is not None:
            timm._NORM_ACT_REQUIRES_ARG.add(build_norm)
        return super().func
