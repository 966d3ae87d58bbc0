"""Oracles of norms that look at one sample, or one value, alone: of lengths, of responses, of windows, pointwise.

As in `oracles.py`: in NumPy and float64, from the papers, mostly one value after the other.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def vectors(x: Array, channel_dim: int) -> Array:
    """A view of `x` as `(positions, C)`."""
    return np.moveaxis(x, channel_dim, -1).reshape(-1, x.shape[channel_dim])


def each_vector(x: Array, function: Callable[[Array], Array], channel_dim: int = 1) -> Array:
    """`function` of the vector of channels at each position of each sample."""
    rows = np.array([function(row) for row in vectors(x, channel_dim)])
    moved = np.moveaxis(x, channel_dim, -1)
    return np.moveaxis(rows.reshape(moved.shape), -1, channel_dim)


def scale_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, channel_dim: int = 1) -> Array:
    return each_vector(x, lambda row: weight[0] * row / max(math.sqrt(sum(row**2)), eps), channel_dim)


def pixel_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-8, channel_dim: int = 1) -> Array:
    return each_vector(x, lambda row: row / math.sqrt(sum(row**2) / len(row) + eps), channel_dim)


def unit_norm(
    x: Array, weight: Array, bias: Array, k: Any = 0.5, eps: float = 1e-5, channel_dim: int = 1, **_: Any
) -> Array:
    exponent = float(np.squeeze(k)) / 2
    return each_vector(x, lambda row: len(row) ** exponent * row / max(math.sqrt(sum(row**2)), eps), channel_dim)


def positional_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, channel_dim: int = 1) -> Array:
    def normalized(row: Array) -> Array:
        return (row - row.mean()) / math.sqrt(((row - row.mean()) ** 2).mean() + eps) * weight + bias

    return each_vector(x, normalized, channel_dim)


def local_response_norm(
    x: Array, weight: Array, bias: Array, size: int = 5, alpha: float = 5e-4, beta: float = 0.75, k: float = 2.0
) -> Array:
    """The paper's sum over a range of channels, with alpha / size for its alpha."""

    def response(row: Array) -> Array:
        ranges = [range(max(0, i - size // 2), min(len(row), i + (size - 1) // 2 + 1)) for i in range(len(row))]
        energy = np.array([sum(row[j] ** 2 for j in near) for near in ranges])
        return row / (k + alpha / size * energy) ** beta

    return each_vector(x, response)


def global_response_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-6, channel_dim: int = 1) -> Array:
    y = np.empty_like(x)
    for sample, out in zip(np.moveaxis(x, channel_dim, 1), np.moveaxis(y, channel_dim, 1), strict=True):
        lengths = np.array([np.linalg.norm(channel.ravel()) for channel in sample])
        for c in range(len(sample)):
            relative = lengths[c] / (lengths.mean() + eps)
            out[c] = weight[c] * (sample[c] * relative) + bias[c] + sample[c]
    return y


def divisive_norm(x: Array, weight: Array, bias: Array, window_size: int = 5, sigma: float = 0.5, **_: Any) -> Array:
    """A loop over positions, each with what its window cuts out of the map; over channels if there are none."""
    maps = x if x.ndim > 2 else x[:, None]
    radius = window_size // 2

    def window(position: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(max(0, p - radius), p + radius + 1) for p in position)

    v, y = np.empty_like(maps), np.empty_like(maps)
    positions = list(np.ndindex(*maps.shape[2:]))
    for n in range(len(maps)):
        for p in positions:
            v[(n, slice(None), *p)] = maps[(n, slice(None), *p)] - maps[(n, slice(None), *window(p))].mean()
        for p in positions:
            energy = (v[(n, slice(None), *window(p))] ** 2).mean()
            y[(n, slice(None), *p)] = v[(n, slice(None), *p)] / math.sqrt(sigma**2 + energy)
    y = y.reshape(x.shape)
    return np.moveaxis(np.moveaxis(y, 1, -1) * weight + bias, -1, 1)


def dynamic(function: Callable[[float], float]) -> Callable[..., Array]:
    def oracle(
        x: Array,
        weight: Array,
        bias: Array,
        alpha: Array | float = 0.5,
        shift: Array | float = 0.0,
        channel_dim: int = 1,
        **_: Any,
    ) -> Array:
        values = np.vectorize(function, otypes=[float])(float(np.squeeze(alpha)) * x + float(np.squeeze(shift)))
        return np.moveaxis(np.moveaxis(values, channel_dim, -1) * weight + bias, -1, channel_dim)

    return oracle


ORACLES: dict[str, Callable[..., Array]] = {
    "divisive_norm": divisive_norm,
    "dynamic_erf": dynamic(math.erf),
    "dynamic_tanh": dynamic(math.tanh),
    "global_response_norm": global_response_norm,
    "local_response_norm": local_response_norm,
    "pixel_norm": pixel_norm,
    "positional_norm": positional_norm,
    "scale_norm": scale_norm,
    "unit_norm": unit_norm,
}

KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "divisive_norm": [{"window_size": 3, "sigma": 1.0}],
    "dynamic_erf": [{"channel_dim": -1}],
    "dynamic_tanh": [{"channel_dim": -1}],
    "global_response_norm": [{"channel_dim": -1}],
    "local_response_norm": [{"size": 4, "alpha": 1.0, "k": 1.0}, {"size": 20, "alpha": 0.1, "beta": 0.5}],
    "pixel_norm": [{"channel_dim": -1}, {"eps": 1.0}],
    "positional_norm": [{"channel_dim": -1}],
    "scale_norm": [{"channel_dim": -1}, {"eps": 1e2}],
    "unit_norm": [{"channel_dim": -1}, {"k": 1.0}, {"learnable_k": True}],
}
