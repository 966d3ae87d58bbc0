"""Oracles of the conditional norms, as in `oracles.py`: in training, in NumPy and float64, from the papers.

An oracle takes the input, the condition and the layer's parameters, whose names have `_` in place of `.`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def standard(values: Array, eps: float) -> Array:
    return (values - values.mean()) / np.sqrt(values.var() + eps)


def conditional_batch_norm(x: Array, labels: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        x_hat = standard(x[:, c], eps)
        for n, label in enumerate(labels):
            y[n, c] = x_hat[n] * weight[label, c] + bias[label, c]
    return y


def domain_specific_batch_norm(x: Array, domains: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y = np.empty_like(x)
    for domain in np.unique(domains):
        here = domains == domain
        for c in range(x.shape[1]):
            y[here, c] = standard(x[here, c], eps) * weight[domain, c] + bias[domain, c]
    return y


def adaptive_instance_norm(x: Array, style: Array, eps: float = 1e-5) -> Array:
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = style[n, c]
            y[n, c] = standard(x[n, c], eps) * np.sqrt(values.var() + eps) + values.mean()
    return y


def adaptive_layer_norm(
    x: Array, vectors: Array, modulation_weight: Array, modulation_bias: Array, eps: float = 1e-6, channel_dim: int = 1
) -> Array:
    x = np.moveaxis(x, channel_dim, 1)
    channels = x.shape[1]
    y = np.empty_like(x)
    for n, vector in enumerate(vectors):
        out = modulation_weight @ (vector / (1 + np.exp(-vector))) + modulation_bias
        shift, scale = out[:channels], out[channels:]
        for position in np.ndindex(*x.shape[2:]):
            y[n, :, *position] = standard(x[n, :, *position], eps) * (1 + scale) + shift
    return np.moveaxis(y, 1, channel_dim)


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Of the same size, zeros around it."""
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    y = np.empty((x.shape[0], weight.shape[0], *x.shape[2:]))
    for i, j in np.ndindex(*x.shape[2:]):
        y[:, :, i, j] = np.einsum("nchw,ochw->no", padded[:, :, i : i + k, j : j + k], weight) + bias
    return y


def nearest(x: Array, height: int, width: int) -> Array:
    rows = np.arange(height) * x.shape[2] // height
    columns = np.arange(width) * x.shape[3] // width
    return x[:, :, rows][:, :, :, columns]


def spade(
    x: Array,
    labels: Array,
    shared_weight: Array,
    shared_bias: Array,
    gamma_weight: Array,
    gamma_bias: Array,
    beta_weight: Array,
    beta_bias: Array,
    eps: float = 1e-5,
) -> Array:
    h = np.maximum(convolve(nearest(labels, *x.shape[2:]), shared_weight, shared_bias), 0)
    x_hat = np.stack([standard(x[:, c], eps) for c in range(x.shape[1])], axis=1)
    return x_hat * convolve(h, gamma_weight, gamma_bias) + convolve(h, beta_weight, beta_bias)


ORACLES: dict[str, Callable[..., Array]] = {
    "conditional_batch_norm": conditional_batch_norm,
    "domain_specific_batch_norm": domain_specific_batch_norm,
    "adaptive_instance_norm": adaptive_instance_norm,
    "adaptive_layer_norm": adaptive_layer_norm,
    "spade": spade,
}

# What must be given to build each.
NEEDED: dict[str, dict[str, Any]] = {
    "conditional_batch_norm": {"num_classes": 3},
    "domain_specific_batch_norm": {"num_domains": 2},
    "adaptive_instance_norm": {},
    "adaptive_layer_norm": {"condition_features": 5},
    "spade": {"label_channels": 2, "hidden_features": 3},
}
