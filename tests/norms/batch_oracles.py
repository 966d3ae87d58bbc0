"""Oracles of the norms that repair batch statistics: what a new layer computes on its first training batch.

As in `oracles.py`: in NumPy and float64, from the papers. What the layers do over many batches is simulated in
`test_norm_<name>.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def per_channel(x: Array, function: Callable[[Array, int], Array], channel_dim: int = 1) -> Array:
    """`function(values, c)` of all values of each channel."""
    y = np.empty_like(x)
    xs, ys = np.moveaxis(x, channel_dim, 0), np.moveaxis(y, channel_dim, 0)
    for c in range(len(xs)):
        ys[c] = function(xs[c], c)
    return y


def standard(values: Array, eps: float) -> Array:
    return (values - values.mean()) / np.sqrt(values.var() + eps)


def frozen_batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    return per_channel(x, lambda values, c: weight[c] * values / np.sqrt(1 + eps) + bias[c])


def batch_renorm(
    x: Array,
    weight: Array,
    bias: Array,
    eps: float = 1e-5,
    r_max: float = 3.0,
    d_max: float = 5.0,
    warmup_steps: int = 5000,
    **_: Any,
) -> Array:
    """Batch norm, as the limits of a first batch are r_max = 1 and d_max = 0 whatever the options."""
    return per_channel(x, lambda values, c: weight[c] * standard(values, eps) + bias[c])


def split_batch_norm(
    x: Array,
    weight: Array,
    bias: Array,
    aux_bn_0_weight: Array | None = None,
    aux_bn_0_bias: Array | None = None,
    num_splits: int = 2,
    eps: float = 1e-5,
    **_: Any,
) -> Array:
    """A loop over the parts, the first of which have a sample more if they cannot be equal."""
    size, left = divmod(len(x), num_splits)
    weights, biases = [weight, aux_bn_0_weight], [bias, aux_bn_0_bias]
    y, start = np.empty_like(x), 0
    for i in range(num_splits):
        part = slice(start, start + size + (i < left))
        w, b = weights[i], biases[i]
        w, b = (weight * 0 + 1, bias * 0) if w is None or b is None else (w, b)
        if len(x[part]):
            y[part] = per_channel(x[part], lambda values, c, w=w, b=b: w[c] * standard(values, eps) + b[c])
        start = part.stop
    return y


def mean_only_batch_norm(x: Array, weight: Array, bias: Array, **_: Any) -> Array:
    return per_channel(x, lambda values, c: values - values.mean() + bias[c])


def l1_batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    def normalized(values: Array, c: int) -> Array:
        deviation = np.sqrt(np.pi / 2) * np.abs(values - values.mean()).sum() / values.size
        return weight[c] * (values - values.mean()) / (deviation + eps) + bias[c]

    return per_channel(x, normalized)


def cross_iteration_batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5, **_: Any) -> Array:
    """Batch norm, as of a first batch."""
    return per_channel(x, lambda values, c: weight[c] * standard(values, eps) + bias[c])


def power_norm(
    x: Array,
    weight: Array,
    bias: Array,
    eps: float = 1e-5,
    warmup_steps: int = 100,
    channel_dim: int = 1,
    **_: Any,
) -> Array:
    """By the quadratic mean of the batch while warming up, by the initial 1 after."""

    def normalized(values: Array, c: int) -> Array:
        power = np.mean(values**2) if warmup_steps > 0 else 1.0
        return weight[c] * values / np.sqrt(power + eps) + bias[c]

    return per_channel(x, normalized, channel_dim)


def moving_average_batch_norm(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5, r_max: float = 5.0, warmup_steps: int = 100, **_: Any
) -> Array:
    """By the root mean square of the batch, the only one in the window; after the warm-up corrected towards 1."""

    def normalized(values: Array, c: int) -> Array:
        chi = np.sqrt(np.mean(values**2) + eps)
        r = 1.0 if warmup_steps > 0 else np.clip(chi / np.sqrt(1 + eps), 1 / r_max, r_max)
        return weight[c] * values / chi * r + bias[c]

    return per_channel(x, normalized)


def online_norm(
    x: Array,
    weight: Array,
    bias: Array,
    eps: float = 1e-5,
    momentum: float = 0.001,
    layer_scaling: bool = True,
    **_: Any,
) -> Array:
    """A loop over samples, with the decay factor α of the paper."""
    alpha = 1 - momentum

    def stream(values: Array, c: int) -> Array:
        mu, sigma2, y = 0.0, 1.0, np.empty_like(values)
        for t, sample in enumerate(values):
            y[t] = weight[c] * (sample - mu) / np.sqrt(sigma2 + eps) + bias[c]
            mu_x, sigma2_x = sample.mean(), sample.var()
            sigma2 = alpha * sigma2 + (1 - alpha) * sigma2_x + alpha * (1 - alpha) * (mu_x - mu) ** 2
            mu = alpha * mu + (1 - alpha) * mu_x
        return y

    y = per_channel(x, stream)
    if layer_scaling:
        y = np.stack([sample / np.sqrt(np.mean(sample**2) + eps) for sample in y])
    return y


ORACLES: dict[str, Callable[..., Array]] = {
    "batch_renorm": batch_renorm,
    "cross_iteration_batch_norm": cross_iteration_batch_norm,
    "frozen_batch_norm": frozen_batch_norm,
    "l1_batch_norm": l1_batch_norm,
    "mean_only_batch_norm": mean_only_batch_norm,
    "moving_average_batch_norm": moving_average_batch_norm,
    "online_norm": online_norm,
    "power_norm": power_norm,
    "split_batch_norm": split_batch_norm,
}

KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "batch_renorm": [{"eps": 1e-2}, {"momentum": None}],
    "frozen_batch_norm": [{"eps": 1e-2}],
    "l1_batch_norm": [{"eps": 1e-2}, {"track_running_stats": False}],
    "mean_only_batch_norm": [{"momentum": None}, {"track_running_stats": False}],
    "cross_iteration_batch_norm": [{"window": 1}, {"eps": 1e-2}],
    "moving_average_batch_norm": [{"window": 1}, {"eps": 1e-2}],
    "online_norm": [{"momentum": 0.1}, {"layer_scaling": False, "eps": 1e-2}],
    "power_norm": [{"channel_dim": -1}, {"eps": 1e-2}],
    "split_batch_norm": [{"eps": 1e-2}, {"momentum": None}],
}
