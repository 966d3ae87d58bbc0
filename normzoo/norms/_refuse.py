"""Refuse what a norm is not defined for, in one form: the layer, what it got, what is expected, how to fix it."""

from collections.abc import Sequence

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.norms._layer import NormLayer
from normzoo.validation import ArgumentValueError


class NormValueError(UserError, ValueError):
    """An input, or a layer to be put on, for which a norm is not defined."""


class NormTypeError(UserError, TypeError):
    """An input, or a weight, that is not of floating-point numbers."""


def describe(layer: nn.Module) -> str:
    """Return the layer with its options, on one line: as it prints, without the layers that it is made of."""
    return f"{type(layer).__name__}({layer.extra_repr()})"


def invalid(layer: nn.Module, said: str) -> ArgumentValueError:
    """Return the error for an argument: the layer's class, then what is expected and what came."""
    return ArgumentValueError(f"{type(layer).__name__}: {said}")


def check_dtype(layer: nn.Module | str, x: Tensor) -> None:
    """Refuse whole numbers, booleans and complex numbers, whose means and variances would be rounded or not real.

    Raises:
        NormTypeError: A TypeError that names the layer, or the norm of a weight, and the data type received.
    """
    if x.is_floating_point():
        return
    name = layer if isinstance(layer, str) else describe(layer)
    mend = "give it x.float()" if not x.is_complex() else "give it torch.view_as_real(x), or another real view"
    raise NormTypeError(f"{name} takes floating-point numbers; got {x.dtype}: {mend}")


def check_input(layer: nn.Module, x: Tensor, num_features: int | tuple[int, ...], *, channel_dim: int = 1) -> None:
    """Refuse an input of another kind of numbers, or without the layer's number of channels at `channel_dim`.

    Where `num_features` is a tuple, it is the sizes of the trailing dimensions.

    Raises:
        NormTypeError: A TypeError that names the layer and the data type received.
        NormValueError: A ValueError that names the layer, the shape received and the shape expected.
    """
    check_dtype(layer, x)
    shape = tuple(x.shape)
    if isinstance(num_features, tuple):
        if shape[-len(num_features) :] == num_features:
            return
        raise NormValueError(
            f"{describe(layer)} takes an input whose last dimensions are {num_features}; got the shape {shape}: build "
            f"the layer with the sizes that the layer before it gives"
        )
    if len(shape) >= 2 and -len(shape) <= channel_dim < len(shape) and shape[channel_dim] == num_features:
        return
    where = "(N, C, *)" if channel_dim == 1 else f"at least 2 dimensions and C at dimension {channel_dim}"
    raise NormValueError(
        f"{describe(layer)} takes an input of {where} with C = {num_features} channels; got the shape {shape}: "
        f"{_mend_channels(layer, shape, num_features, channel_dim)}"
    )


def _mend_channels(layer: nn.Module, shape: Sequence[int], num_features: int, channel_dim: int) -> str:
    elsewhere = -1 if channel_dim == 1 else 1
    if len(shape) < 2:
        return "add the dimension of the samples in front, with x.unsqueeze(0)"
    if len(shape) < 3 or shape[elsewhere] != num_features:
        return "build the layer with the number of channels that the layer before it gives"
    if hasattr(layer, "channel_dim"):
        return f"where the channels are at dimension {elsewhere}, build the layer with channel_dim={elsewhere}"
    return (
        "for tokens, whose channels come last, build layer_norm_channel or another norm that has the argument with "
        "channel_dim=-1, or give this one x.movedim(-1, 1)"
    )


def check_count(
    layer: NormLayer,
    shape: Sequence[int],
    mend: str,
    *,
    count: int | None = None,
    statistic: str = "mean and variance",
    outcome: str = "the bias",
) -> None:
    """Refuse a statistic over one value: a variance is 0 then, and the output would be the bias whatever the input.

    Args:
        layer: Counts the values.
        shape: That of the input.
        mend: How to fix it.
        count: How many values there are, if not what the layer counts.
        statistic: What is taken over the values.
        outcome: What the output would be.

    Raises:
        NormValueError: A ValueError that names the layer, the shape received, the invariant and how to fix it.
    """
    if (layer.values_per_statistic(shape) if count is None else count) == 1:
        raise NormValueError(
            f"{describe(layer)} got the shape {tuple(shape)}, which leaves a single value for each {statistic}, "
            f"so that every output would be {outcome} whatever the input; at least 2 are needed: {mend}"
        )
