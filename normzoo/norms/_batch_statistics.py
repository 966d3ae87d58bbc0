"""What the norms that batch norm is a part of take from it: x_hat, by the batch's statistics or by the running ones."""

import math

from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._running import update_running
from normzoo.norms._standardize import per_channel, standardize


def standardize_batch(layer: _NormBase, x: Tensor) -> Tensor:
    """Centre and scale each channel of `x` as batch norm does, with the statistics and the options that `layer` holds.

        training:    x_hat = (x − mean) / sqrt(var + eps),  mean and var over (N, *); these move the running ones
        evaluation:  x_hat = (x − running_mean) / sqrt(running_var + eps)

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """
    if layer.training or layer.running_mean is None:
        x_hat, mean, var, _ = standardize(x, (0, *range(2, x.dim())), layer.eps)
        if layer.training and x.numel():
            m = x.shape[0] * math.prod(x.shape[2:])
            update_running(layer, mean, var * (m / (m - 1)))
        return x_hat
    assert layer.running_var is not None
    rstd = (layer.running_var + layer.eps).rsqrt()
    return ((x - per_channel(layer.running_mean, x)) * per_channel(rstd, x)).to(x.dtype)
