"""Oracles of the norms that divide without subtracting a mean: filter response norm, the EvoNorms, RMS norm.

As in `oracles.py`: in NumPy and float64, from the papers, one map or position after the other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def filter_response_norm(
    x: Array,
    weight: Array,
    bias: Array,
    tau: Array | None = None,
    eps_l: Array | None = None,
    eps: float = 1e-6,
    tlu: bool = True,
    learned_eps: bool = False,
) -> Array:
    assert (tau is not None, eps_l is not None) == (tlu, learned_eps)
    added = eps + abs(float(eps_l)) if eps_l is not None else eps
    y = np.empty_like(x)
    for n, c in np.ndindex(*x.shape[:2]):
        nu2 = np.mean(x[n, c] ** 2)
        y[n, c] = weight[c] * x[n, c] / np.sqrt(nu2 + added) + bias[c]
        if tau is not None:
            y[n, c] = np.maximum(y[n, c], tau[c])
    return y


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def evo_norm_s(
    x: Array,
    weight: Array,
    bias: Array,
    scale: Callable[[Array], Any],
    v: Array | None = None,
    num_groups: int | None = None,
    eps: float = 1e-5,
    channels_per_group: int | None = None,
) -> Array:
    """`scale(values)` of a group is its variance or its mean square."""
    channels = x.shape[1]
    if channels_per_group is not None:
        num_groups = max(1, channels // channels_per_group)
    size = channels // (num_groups or 1)  # the default for 8 channels
    y = np.empty_like(x)
    for n, c in np.ndindex(*x.shape[:2]):
        start = c // size * size
        gate = sigmoid((1.0 if v is None else v[c]) * x[n, c])
        y[n, c] = x[n, c] * gate / np.sqrt(scale(x[n, start : start + size]) + eps) * weight[c] + bias[c]
    return y


def evo_norm_s0(x: Array, weight: Array, bias: Array, v: Array, **keywords: Any) -> Array:
    return evo_norm_s(x, weight, bias, np.var, v, **keywords)


def evo_norm_s1(x: Array, weight: Array, bias: Array, **keywords: Any) -> Array:
    return evo_norm_s(x, weight, bias, np.var, **keywords)


def evo_norm_s2(x: Array, weight: Array, bias: Array, **keywords: Any) -> Array:
    return evo_norm_s(x, weight, bias, lambda values: np.mean(values**2), **keywords)


def evo_norm_b(x: Array, weight: Array, bias: Array, other: Callable[[Array, int], Array], eps: float) -> Array:
    """`other(values, c)` is what the batch's deviation is compared with on a map of channel c."""
    y = np.empty_like(x)
    for n, c in np.ndindex(*x.shape[:2]):
        batch_std = np.sqrt(x[:, c].var() + eps)
        y[n, c] = x[n, c] / np.maximum(batch_std, other(x[n, c], c)) * weight[c] + bias[c]
    return y


def evo_norm_b0(x: Array, weight: Array, bias: Array, v: Array, eps: float = 1e-5, **_: Any) -> Array:
    return evo_norm_b(x, weight, bias, lambda values, c: v[c] * values + np.sqrt(values.var() + eps), eps)


def evo_norm_b1(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    return evo_norm_b(x, weight, bias, lambda values, c: (values + 1) * np.sqrt(np.mean(values**2) + eps), eps)


def evo_norm_b2(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    return evo_norm_b(x, weight, bias, lambda values, c: np.sqrt(np.mean(values**2) + eps) - values, eps)


def rms_norm(x: Array, weight: Array, bias: Array, eps: float = 2.0**-52, channel_dim: int = 1, **_: Any) -> Array:
    y = np.moveaxis(np.empty_like(x), channel_dim, -1)
    values = np.moveaxis(x, channel_dim, -1)
    for place in np.ndindex(*values.shape[:-1]):
        y[place] = values[place] / np.sqrt(np.mean(values[place] ** 2) + eps) * weight
    return np.moveaxis(y, -1, channel_dim)


ORACLES: dict[str, Callable[..., Array]] = {
    "evo_norm_b0": evo_norm_b0,
    "evo_norm_b1": evo_norm_b1,
    "evo_norm_b2": evo_norm_b2,
    "evo_norm_s0": evo_norm_s0,
    "evo_norm_s1": evo_norm_s1,
    "evo_norm_s2": evo_norm_s2,
    "filter_response_norm": filter_response_norm,
    "rms_norm": rms_norm,
}

KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "evo_norm_b0": [{"eps": 1e-2}, {"momentum": None}],
    "evo_norm_b1": [{"eps": 1e-2}],
    "evo_norm_b2": [{"eps": 1e-2}],
    "evo_norm_s0": [{"num_groups": 8, "eps": 1e-2}, {"channels_per_group": 4}],
    "evo_norm_s1": [{"num_groups": 1}],
    "evo_norm_s2": [{"num_groups": 1, "eps": 1e-2}],
    "filter_response_norm": [{"eps": 1e-2}, {"tlu": False}, {"learned_eps": True}],
    "rms_norm": [{"eps": 1e-2}, {"channel_dim": -1}],
}
