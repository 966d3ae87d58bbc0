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


ORACLES: dict[str, Callable[..., Array]] = {
    "batch_renorm": batch_renorm,
    "frozen_batch_norm": frozen_batch_norm,
    "l1_batch_norm": l1_batch_norm,
    "mean_only_batch_norm": mean_only_batch_norm,
    "split_batch_norm": split_batch_norm,
}

KEYWORDS: dict[str, list[dict[str, Any]]] = {
    "batch_renorm": [{"eps": 1e-2}, {"momentum": None}],
    "frozen_batch_norm": [{"eps": 1e-2}],
    "l1_batch_norm": [{"eps": 1e-2}, {"track_running_stats": False}],
    "mean_only_batch_norm": [{"momentum": None}, {"track_running_stats": False}],
    "split_batch_norm": [{"eps": 1e-2}, {"momentum": None}],
}
