"""What each norm computes in training, in NumPy and float64, from its definition and not from our code.

An oracle takes the input, `weight` and `bias` as float64 arrays, those other parameters of the layer that it names
(`tau`; `aux_bn_0_bias` for `aux_bn.0.bias`), and the layer's own keywords, and returns the output.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.norms import batch_oracles, mixture_oracles, sample_oracles, uncentred_oracles

Array = np.ndarray[Any, np.dtype[np.float64]]


def along_channels(vector: Array, x: Array, channel_dim: int = 1) -> Array:
    shape = [1] * x.ndim
    shape[channel_dim] = -1
    return vector.reshape(shape)


def normalized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean = np.mean(x, axis=axes, keepdims=True)
    deviation = x - mean
    return deviation / np.sqrt(np.mean(deviation**2, axis=axes, keepdims=True) + eps)


def identity(x: Array, weight: Array, bias: Array) -> Array:
    return x


def batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        y[:, c] = weight[c] * (values - values.mean()) / np.sqrt(values.var() + eps) + bias[c]
    return y


def ghost_batch_norm(x: Array, weight: Array, bias: Array, group_size: int = 32, eps: float = 1e-5, **_: Any) -> Array:
    """A loop over groups: those of `group_size` dealt out in turn, then the samples left over."""
    y = np.empty_like(x)
    for group in ghost_groups(len(x), group_size):
        y[group] = batch_norm(x[group], weight, bias, eps)
    return y


def ghost_groups(samples: int, group_size: int) -> list[list[int]]:
    k = samples // group_size
    groups = [[j + i * k for i in range(group_size)] for j in range(k)]
    left = list(range(k * group_size, samples))
    return [*groups, left] if left else groups


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y = normalized(x, tuple(range(1, x.ndim)), eps)
    return y * along_channels(weight, x) + along_channels(bias, x)


def layer_norm_channel(x: Array, weight: Array, bias: Array, eps: float = 1e-5, channel_dim: int = 1) -> Array:
    y = normalized(x, (channel_dim,), eps)
    return y * along_channels(weight, x, channel_dim) + along_channels(bias, x, channel_dim)


def instance_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    y = normalized(x, tuple(range(2, x.ndim)), eps)
    return y * along_channels(weight, x) + along_channels(bias, x)


def group_norm(
    x: Array,
    weight: Array,
    bias: Array,
    num_groups: int | None = None,
    eps: float = 1e-5,
    channels_per_group: int | None = None,
) -> Array:
    channels = x.shape[1]
    if channels_per_group is not None:
        num_groups = max(1, channels // channels_per_group)
    if num_groups is None:
        fitting = [g for g in range(1, 33) if channels % g == 0 and channels >= 8 * g]
        num_groups = max(fitting, default=1)
    size = channels // num_groups
    y = np.empty_like(x)
    for start in range(0, channels, size):
        group = slice(start, start + size)
        y[:, group] = normalized(x[:, group], tuple(range(1, x.ndim)), eps)
    return y * along_channels(weight, x) + along_channels(bias, x)


ORACLES: dict[str, Callable[..., Array]] = {
    "identity": identity,
    "batch_norm": batch_norm,
    "batch_norm_scratch": batch_norm,
    "sync_batch_norm": batch_norm,
    "ghost_batch_norm": ghost_batch_norm,
    "layer_norm": layer_norm,
    "layer_norm_scratch": layer_norm,
    "layer_norm_channel": layer_norm_channel,
    "instance_norm": instance_norm,
    "instance_norm_scratch": instance_norm,
    "group_norm": group_norm,
    "group_norm_scratch": group_norm,
    **batch_oracles.ORACLES,
    **mixture_oracles.ORACLES,
    **sample_oracles.ORACLES,
    **uncentred_oracles.ORACLES,
}

# Keywords, beside the defaults, that each norm is checked with.
KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "batch_norm": [{"eps": 1e-2}, {"momentum": None}],
    "batch_norm_scratch": [{"eps": 1e-2}, {"momentum": None}, {"moving_average_fraction": 0.9}],
    "sync_batch_norm": [{"momentum": None}],
    "ghost_batch_norm": [{"group_size": 2}, {"group_size": 4}],
    "layer_norm": [{"eps": 1e-2}],
    "layer_norm_channel": [{"channel_dim": -1}],
    "instance_norm": [{"track_running_stats": True}],
    "group_norm": [{"num_groups": 2}, {"channels_per_group": 2}, {"channels_per_group": 16}],
    "group_norm_scratch": [{"num_groups": 8, "eps": 1e-2}, {"channels_per_group": 4}],
    **batch_oracles.KEYWORDS,
    **mixture_oracles.KEYWORDS,
    **sample_oracles.KEYWORDS,
    **uncentred_oracles.KEYWORDS,
}


def expected(name: str, layer: nn.Module, x: Tensor, **keywords: Any) -> Tensor:
    """The oracle's output in float64, for the values that the layer holds."""
    channels = x.shape[keywords.get("channel_dim", 1)]
    held = {key.replace(".", "_"): value for key, value in layer.named_parameters()}
    held = {key: value for key, value in held.items() if key in inspect.signature(ORACLES[name]).parameters}
    for key, absent in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
        value = getattr(layer, key, None)
        held[key] = absent if value is None else value
    arrays = {key: value.detach().double().numpy() for key, value in held.items()}
    return torch.from_numpy(ORACLES[name](x.detach().double().numpy(), **arrays, **keywords))
