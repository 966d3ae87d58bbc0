"""Building blocks of the models: a placement, and a convolution or dense layer with norm and activation."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from normzoo.errors import UserError

Norm = Callable[[int], nn.Module]
"""Builds a norm for a number of channels, such as `normzoo.factory("group_norm")` or `torch.nn.BatchNorm2d`."""

ORDERS = ("pre_act", "post_act")
PLACES = ("all", "none", "first", "last", "all_but_last")


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise UserError(f"placement.order={order!r} is unknown; choose one of {', '.join(ORDERS)}")


@dataclass(frozen=True)
class Placement:
    """Which stages of a model are normalized, and on which side of the activation.

    A stage is a part of a model that is normalized as a whole; each model documents its stages.

    Args:
        order: `pre_act` is conv, norm, activation (Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.2); `post_act` is
            conv, activation, norm. Neither is a "pre-activation" ResNet (He et al. 2016, arXiv:1603.05027).
        where: `all`, `none`, `first`, `last`, `all_but_last`, or a list of stages counted from 0, such as `(0, 1)`.

    Raises:
        UserError: If the order or the place is unknown.
    """

    order: str = "pre_act"
    where: str | Sequence[int] = "all"

    def __post_init__(self) -> None:
        _check_order(self.order)
        stages: Any = self.where
        if isinstance(stages, str) and stages in PLACES:
            return
        listed = isinstance(stages, Sequence) and not isinstance(stages, str)
        if not listed or any(type(stage) is not int or stage < 0 for stage in stages):
            raise UserError(
                f"placement.where={self.where!r} is unknown; "
                f"choose one of {', '.join(PLACES)}, or list stages counted from 0, such as [0, 1]"
            )
        # A tuple makes the placement hashable.
        object.__setattr__(self, "where", tuple(stages))

    def at(self, stage: int, n_stages: int) -> bool:
        """Return whether stage `stage` of `n_stages`, counted from 0, is normalized.

        Raises:
            UserError: If a listed stage does not exist.
        """
        if not 0 <= stage < n_stages:
            raise ValueError(f"stage {stage} is not one of {n_stages} stages")
        if not isinstance(self.where, str):
            for listed in self.where:
                if listed >= n_stages:
                    raise UserError(
                        f"placement.where={list(self.where)} names stage {listed}, "
                        f"but this model has {n_stages} stages: 0 to {n_stages - 1}"
                    )
            return stage in self.where
        places = {
            "all": True,
            "none": False,
            "first": stage == 0,
            "last": stage == n_stages - 1,
            "all_but_last": stage < n_stages - 1,
        }
        return places[self.where]


EVERYWHERE = Placement()


class ConvNormAct(nn.Sequential):
    """A 2d convolution with norm and activation, in the order they run.

    pre_act: `act(norm(conv(x)))`; post_act: `norm(act(conv(x)))`. The children are `conv`, `norm` and `act`; what is
    absent is left out rather than an `nn.Identity`.

    The convolution has a bias unless a norm with a `bias` directly follows it, which would cancel it. A norm that
    includes an activation (`includes_activation` on its class) stands for both, in either order.

    Shape: `(N, in_channels, H, W) -> (N, out_channels, H', W')`; the map keeps its size at stride 1 and odd kernels.

    Args:
        norm: None for none.
        padding: None for `kernel_size // 2`.
        activation: None for none.

    Raises:
        UserError: If the order is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm | None,
        order: str = "pre_act",
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        follow = norm_and_act(out_channels, norm, order, activation)
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2 if padding is None else padding
        )
        # Always built with a bias, so that a seed draws the same weights for every norm and placement.
        if begins_with_bias(follow):
            conv.bias = None
        super().__init__(OrderedDict([("conv", conv), *follow.items()]))


class DenseNormAct(nn.Sequential):
    """A dense layer with norm and activation: like `ConvNormAct`, with a child `linear` instead of `conv`.

    Shape: `(N, in_features) -> (N, out_features)`
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        norm: Norm | None,
        order: str = "pre_act",
        *,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        follow = norm_and_act(out_features, norm, order, activation)
        linear = nn.Linear(in_features, out_features)
        if begins_with_bias(follow):
            linear.register_parameter("bias", None)
        super().__init__(OrderedDict([("linear", linear), *follow.items()]))


def norm_and_act(
    channels: int, norm: Norm | None, order: str, activation: Callable[[], nn.Module] | None
) -> dict[str, nn.Module]:
    """Return the layers that follow a convolution in order: `norm` and `act`, either of which may be absent."""
    _check_order(order)
    built = None if norm is None else norm(channels)
    follow: dict[str, nn.Module] = {}
    if built is not None:
        follow["norm"] = built
    if activation is not None and not getattr(built, "includes_activation", False):
        follow["act"] = activation()
    return follow if order == "pre_act" else dict(reversed(follow.items()))


def begins_with_bias(follow: dict[str, nn.Module]) -> bool:
    """Return whether the first of these layers is a norm with a bias."""
    name, first = next(iter(follow.items()), ("", None))
    return name == "norm" and getattr(first, "bias", None) is not None


def check_positive(model: str, **sizes: Any) -> None:
    """Check that sizes, or lists of sizes, are positive integers.

    Raises:
        UserError: If one is not; names the model, the argument and its value.
    """
    for name, value in sizes.items():
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        numbers = value if listed else [value]
        if len(numbers) == 0 or any(type(number) is not int or number < 1 for number in numbers):
            wanted = "one or more positive integers" if listed else "a positive integer"
            raise UserError(f"{model}: {name} must be {wanted}, got {value!r}")


def sides(model: str, image_size: Any) -> tuple[int, int]:
    """Return height and width of the images, for a model that depends on them.

    Raises:
        UserError: If the size is None, or not one or two positive integers.
    """
    if image_size is None:
        raise UserError(
            f"{model} needs the size of the images, but it is null: set data.image_size or model.image_size, "
            "such as data.image_size=28"
        )
    check_positive(model, image_size=image_size)
    both = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(both) != 2:
        raise UserError(f"{model}: image_size must be one side, or height and width, got {list(both)}")
    return both[0], both[1]
