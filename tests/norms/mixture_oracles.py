"""Oracles of the norms that mix or whiten, or are local: what a new layer computes on its first training batch.

As in `oracles.py`: in NumPy and float64, from the papers. What the layers do over many batches is simulated in
`test_norm_mixtures.py` and `test_norm_whitening.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def standard(values: Array, eps: float) -> Array:
    return (values - values.mean()) / np.sqrt(values.var() + eps)


def local_batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    return np.stack([standard(x[:, c], eps) * weight[c] + bias[c] for c in range(x.shape[1])], axis=1)


def batch_instance_norm(x: Array, weight: Array, bias: Array, gate: Array, eps: float = 1e-5, **_: Any) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        rho = min(max(gate[c], 0.0), 1.0)
        by_instance = np.stack([standard(values, eps) for values in x[:, c]])
        y[:, c] = (rho * standard(x[:, c], eps) + (1 - rho) * by_instance) * weight[c] + bias[c]
    return y


def ibn(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        first_half = 2 * (c + 1) <= x.shape[1]
        x_hat = np.stack([standard(values, eps) for values in x[:, c]]) if first_half else standard(x[:, c], eps)
        y[:, c] = x_hat * weight[c] + bias[c]
    return y


def softmax(values: Array) -> Array:
    return np.exp(values) / np.exp(values).sum()


def switchable_norm(
    x: Array, weight: Array, bias: Array, mean_weight: Array, var_weight: Array, eps: float = 1e-5, **_: Any
) -> Array:
    """Each of the three statistics, without positions two, straight from the input."""
    first = 0 if x[0, 0].size > 1 else 1
    w, v = softmax(mean_weight[first:]), softmax(var_weight[first:])
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            sets = (x[n, c], x[n], x[:, c])[first:]
            mean = sum(share * values.mean() for share, values in zip(w, sets, strict=True))
            var = sum(share * values.var() for share, values in zip(v, sets, strict=True))
            y[n, c] = (x[n, c] - mean) / np.sqrt(var + eps) * weight[c] + bias[c]
    return y


def batch_channel_norm(
    x: Array,
    weight: Array,
    bias: Array,
    group_weight: Array | None = None,
    group_bias: Array | None = None,
    num_groups: int | None = None,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    channels_per_group: int | None = None,
) -> Array:
    """The estimates are a step from their initial 0 and 1 towards the batch's."""
    channels, r = x.shape[1], 1.0 if momentum is None else momentum
    if channels_per_group is not None:
        num_groups = max(1, channels // channels_per_group)
    if num_groups is None:
        num_groups = max([g for g in range(1, 33) if channels % g == 0 and channels >= 8 * g], default=1)
    z = np.empty_like(x)
    for c in range(channels):
        mu, sigma2 = r * x[:, c].mean(), 1 + r * ((x[:, c] ** 2).mean() - 1)
        z[:, c] = (x[:, c] - mu) / np.sqrt(sigma2 + eps) * weight[c] + bias[c]
    size = channels // num_groups
    y = np.empty_like(x)
    for n in range(len(x)):
        for g in range(num_groups):
            group = slice(g * size, (g + 1) * size)
            y[n, group] = standard(z[n, group], eps)
            if group_weight is not None and group_bias is not None:
                y[n, group] = y[n, group] * group_weight[g] + group_bias[g]
    return y


def channels_to_whiten(channels: int, num_groups: int | None, channels_per_group: int | None) -> int:
    if channels_per_group is not None:
        return min(channels_per_group, channels)
    if num_groups is not None:
        return channels // num_groups
    return max([d for d in range(1, 17) if channels % d == 0 and channels >= 2 * d], default=1)


def whitened(x: Array, weight: Array, bias: Array, size: int, eps: float, root: Callable[[Array], Array]) -> Array:
    columns = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    centred = columns - columns.mean(axis=1, keepdims=True)
    for start in range(0, len(centred), size):
        group = slice(start, start + size)
        sigma = centred[group] @ centred[group].T / centred.shape[1] + eps * np.eye(size)
        centred[group] = root(sigma) @ centred[group]
    y = centred * weight[:, None] + bias[:, None]
    return np.moveaxis(y.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)


def zca(sigma: Array) -> Array:
    eigenvalues, d = np.linalg.eigh(sigma)
    return d @ np.diag(eigenvalues**-0.5) @ d.T


def newton(sigma: Array, iterations: int) -> Array:
    p = np.eye(len(sigma))
    for _ in range(iterations):
        p = (3 * p - np.linalg.matrix_power(p, 3) @ sigma / np.trace(sigma)) / 2
    return p / np.sqrt(np.trace(sigma))


def decorrelated_batch_norm(
    x: Array,
    weight: Array,
    bias: Array,
    num_groups: int | None = None,
    eps: float = 1e-5,
    channels_per_group: int | None = None,
    **_: Any,
) -> Array:
    size = channels_to_whiten(x.shape[1], num_groups, channels_per_group)
    return whitened(x, weight, bias, size, eps, zca)


def iter_norm(
    x: Array,
    weight: Array,
    bias: Array,
    num_groups: int | None = None,
    eps: float = 1e-5,
    iterations: int = 5,
    channels_per_group: int | None = None,
    **_: Any,
) -> Array:
    size = channels_to_whiten(x.shape[1], num_groups, channels_per_group)
    return whitened(x, weight, bias, size, eps, lambda sigma: newton(sigma, iterations))


ORACLES: dict[str, Callable[..., Array]] = {
    "batch_instance_norm": batch_instance_norm,
    "ibn": ibn,
    "switchable_norm": switchable_norm,
    "batch_channel_norm": batch_channel_norm,
    "decorrelated_batch_norm": decorrelated_batch_norm,
    "iter_norm": iter_norm,
    "local_batch_norm": local_batch_norm,
}

KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "batch_instance_norm": [{"momentum": None}],
    "ibn": [{"momentum": None}],
    "switchable_norm": [{"eps": 1e-2}],
    "batch_channel_norm": [{"num_groups": 2}, {"channels_per_group": 1, "momentum": None}],
    "decorrelated_batch_norm": [{"num_groups": 4, "momentum": None}, {"channels_per_group": 8}],
    "iter_norm": [{"iterations": 2}, {"channels_per_group": 1}],
}
