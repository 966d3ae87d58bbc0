"""What the norms that batch norm is a part of take from it: x_hat, or statistics, of the batch or the running ones."""

import math

import torch
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
    mean, var = (s.to(torch.promote_types(s.dtype, torch.float32)) for s in (layer.running_mean, layer.running_var))
    return ((x - per_channel(mean, x)) * per_channel((var + layer.eps).rsqrt(), x)).to(x.dtype)


def detached_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The mean over `dims`, a constant to the gradient: a number to take out before digits are lost; 0 of nothing."""
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    return wide.sum(dims, keepdim=True) / max(math.prod([x.shape[dim] for dim in dims]), 1)


def standardize_instances(
    layer: _NormBase, x: Tensor, offset: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """x_hat of instance norm, and mean and variance of each instance and of the batch: all that blends of the two need.

        mean_B = mean over N of mean_I;  var_B = mean over N of var_I + (mean_I − mean_B)²

    which takes no difference of large squares; in evaluation the batch's are the running ones. As x_hat_B is a multiple
    of x_hat_I, and a shift, x_hat_I is all that a blend saves for the gradient.

    Shape: `(N, C, *)` -> `(N, C, *)`, twice `(N, C, 1, …)` and twice `(1, C, 1, …)`.

    Args:
        layer: Holds the running statistics and the options.
        offset: Numbers near the means, constants to the gradient, that broadcast to `(1, C, 1, …)`: differences of
            means lose the digits that an offset takes. The means returned are those of x less it.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    x_hat, mean_in, var_in, _ = standardize(wide - offset, range(2, x.dim()), layer.eps)
    if not layer.training and layer.running_mean is not None and layer.running_var is not None:
        mean = per_channel(layer.running_mean, x) - offset
        var = per_channel(layer.running_var, x).to(wide.dtype)
        return x_hat, (mean_in, var_in), (mean, var)
    samples = max(x.shape[0], 1)  # without samples the means are 0, not NaN, which would reach the gradients
    mean = mean_in.sum(0, keepdim=True) / samples
    var = (var_in + (mean_in - mean).square()).sum(0, keepdim=True) / samples
    if layer.training and x.numel():
        m = x.shape[0] * math.prod(x.shape[2:])
        update_running(layer, mean + offset, var * (m / (m - 1)))
    return x_hat, (mean_in, var_in), (mean, var)
