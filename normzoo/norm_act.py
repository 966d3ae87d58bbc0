"""Build a norm, and its activation if a timm model asks for both in one layer."""

import functools
import inspect
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from normzoo.norm_info import NormInfo
from normzoo.validation import ArgumentTypeError, check_num_features, check_values

OF_MODELS = (
    *("eps", "momentum", "affine", "track_running_stats", "elementwise_affine", "bias"),
    *("process_group", "device", "dtype"),
)
"""Keywords of torch's norms, which models pass to any norm; a norm without the option ignores it."""


class NormAct(nn.Sequential):
    """A norm followed by an activation: the children `norm` and `act`.

    Attributes are read from and set on the norm, and its weights are saved under its own names, as in timm's layers of
    norm and activation.

    Shape: as the norm's.
    """

    norm: nn.Module

    def __init__(self, norm: nn.Module, *after: tuple[str, nn.Module]) -> None:
        super().__init__(OrderedDict([("norm", norm), *after]))
        self.includes_activation = "act" in self._modules or getattr(norm, "includes_activation", False)
        self.register_state_dict_post_hook(_name_plainly)

    def forward(self, input: Tensor, **kwargs: Any) -> Tensor:
        """Pass further arguments, such as a mask, to the norm."""
        x = self.norm(input, **kwargs)
        for layer in list(self)[1:]:
            x = layer(x)
        return x

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("norm", "_modules"):
                raise
            return getattr(self.norm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in self.__dict__ or hasattr(type(self), name) or "norm" not in self.__dict__.get("_modules", ())
        if own or name in self._modules or not hasattr(self.norm, name):
            super().__setattr__(name, value)
        else:
            setattr(self.norm, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in self.norm.state_dict():
            if prefix + key in state_dict:
                state_dict[f"{prefix}norm.{key}"] = state_dict.pop(prefix + key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _name_plainly(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}norm.")]:
        state_dict[prefix + key.removeprefix(f"{prefix}norm.")] = state_dict.pop(key)


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
    """Build `build(num_features, **kwargs)`, followed by an activation if requested.

    Args:
        num_features: Channels, or the module whose weight a norm is for.
        build: The registered class or function.
        act_layer: Activation as timm gives it (a class, a function or a name); None for none.
        apply_act: False omits the activation, as timm asks after a linear bottleneck, including that of a norm with a
            built-in one, whose `activation_keyword` names the keyword that turns it off.
        act_kwargs: Keywords of the activation.
        drop_layer: Constructor of a layer between norm and activation, such as DropBlock.
        inplace: Accepted because timm passes it, but ignored: a norm may need its output for its backward.
        **kwargs: The norm's own; common keywords of models are dropped if this norm does not have them.

    Raises:
        UnknownArgumentError: A TypeError, if the norm does not accept a keyword, or a required one is missing.
    """
    title = getattr(build, "__name__", "the norm")
    accepted = inspect.signature(build).parameters
    if "affine" in accepted and "elementwise_affine" in kwargs and "elementwise_affine" not in accepted:
        kwargs["affine"] = kwargs.pop("elementwise_affine")
    kwargs = {key: value for key, value in kwargs.items() if key in accepted or key not in OF_MODELS}
    if not apply_act and (keyword := getattr(build, "activation_keyword", None)):
        kwargs[keyword] = False
    NormInfo(title, build, batch_dependent=False).check_keywords(kwargs)
    check_num_features(title, build, num_features)
    check_values(title, build, kwargs)
    norm = build(num_features, **kwargs)
    if isinstance(num_features, nn.Module):
        return norm
    finish(norm)
    after: list[tuple[str, nn.Module]] = []
    if drop_layer is not None:
        after.append(("drop", drop_layer()))
    if getattr(norm, "includes_activation", False):
        if not apply_act:
            warnings.warn(
                f"{title} includes an activation that cannot be turned off, but the model asks for none here "
                f"(apply_act=False)",
                stacklevel=2,
            )
    elif act_layer is not None and apply_act:
        after.append(("act", _activation(act_layer, act_kwargs or {})))
    return NormAct(norm, *after) if after else norm


def finish(norm: nn.Module) -> nn.Module:
    """Give a norm the attributes that code for any norm reads, such as initialization; None for missing ones.

    Also keep it out of the fast path of `nn.TransformerEncoderLayer`, which in evaluation takes eps, weight and bias of
    `norm1` and `norm2` and computes layer norms; it calls norms that have a hook.
    """
    for name in ("weight", "bias"):
        if not hasattr(norm, name):
            norm.register_parameter(name, None)
    if not hasattr(norm, "eps"):
        norm.eps = None  # type: ignore[assignment]
    norm.register_forward_pre_hook(call_me)
    return norm


def call_me(norm: nn.Module, given: tuple[Any, ...]) -> None:
    """Serve as the hook that makes `nn.TransformerEncoderLayer` call the norm."""
    if given and isinstance(given[0], Tensor) and given[0].is_nested:
        raise ArgumentTypeError(
            f"{type(norm).__name__} does not support nested tensors, which nn.TransformerEncoder makes of padded "
            f"samples: build it with enable_nested_tensor=False"
        )


def _activation(act_layer: Any, act_kwargs: dict[str, Any]) -> nn.Module:
    if not isinstance(act_layer, str):
        return act_layer(**act_kwargs)
    from timm.layers.create_act import create_act_layer  # only timm passes activations by name

    return create_act_layer(act_layer, **act_kwargs)


class NormFactory(functools.partial[nn.Module]):
    """A `functools.partial` of `build_norm` that timm's models can take apart.

    timm's EfficientNet, MobileNet, RegNet, DenseNet and others look up `func`: they replace a class by timm's norm of
    the same name or reject it, and call a function for norm and activation in one, but pass the activation only if it
    is in a certain set. So `func` is a function, and enters that set when it is read.
    """

    @property
    def func(self) -> Callable[..., nn.Module]:
        """The function `build_norm`, entered into timm's set."""
        timm = sys.modules.get("timm.layers.create_norm_act")
        if timm is not None:
            timm._NORM_ACT_REQUIRES_ARG.add(build_norm)
        return super().func
