"""The options and the statistics of batch norm, for the norms that it is a part of."""

import math

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._layer import NormLayer
from normzoo.norms._running import update_running
from normzoo.norms._standardize import standardize, wide_per_channel, widen


class BatchStatisticsNorm(NormLayer, _NormBase):
    """A layer with the options, the running statistics and the affine parameters of batch norm."""

    shown: tuple[str, ...] = ("eps", "momentum", "affine", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias", None)
        self._complete(device, dtype)

    def _complete(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Add what a norm has besides, for norms that are built from the same arguments."""


def standardize_batch(layer: _NormBase, x: Tensor) -> Tensor:
    """Centre and scale each channel of `x` as batch norm does, with the statistics and the options that `layer` holds.

        training:    x_hat = (x − mean) / sqrt(var + eps),  mean and var over (N, *); these move the running ones
        evaluation:  x_hat = (x − running_mean) / sqrt(running_var + eps)

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """
    if layer.training or layer.running_mean is None:
        x_hat, mean, var, _ = standardize(x, (0, *range(2, x.dim())), layer.eps)
        _move(layer, x, mean, var)
        return x_hat
    mean, var = wide_per_channel(x, layer.running_mean, layer.running_var)
    return ((x - mean) * (var + layer.eps).rsqrt()).to(x.dtype)


def _move(layer: _NormBase, x: Tensor, mean: Tensor, var: Tensor) -> None:
    if layer.training and x.numel():
        m = x.shape[0] * math.prod(x.shape[2:])
        update_running(layer, mean, var * (m / (m - 1)))


def detached_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Average over `dims`, as a constant to the gradient, to be taken out before digits are lost; 0 of nothing."""
    return widen(x.detach()).sum(dims, keepdim=True) / max(math.prod([x.shape[dim] for dim in dims]), 1)


def standardize_instances(
    layer: _NormBase, x: Tensor, offset: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Compute x_hat of instance norm, and mean and variance of each instance (I) and of the batch (B).

        mean_B = mean over N of mean_I;  var_B = mean over N of var_I + (mean_I − mean_B)²

    which takes no difference of large squares; in evaluation the batch's are the running ones. A blend of the two norms
    needs no more: x_hat_B is a multiple of x_hat_I, and a shift, so that x_hat_I is all that is saved.

    Shape: `(N, C, *)` -> `(N, C, *)`, twice `(N, C, 1, …)` and twice `(1, C, 1, …)`.

    Args:
        layer: Holds the running statistics and the options.
        x: The input.
        offset: Numbers near the means, constants to the gradient, that broadcast to `(1, C, 1, …)`: differences of
            means lose the digits that an offset takes. The means returned are those of x less it.
    """
    x_hat, mean_in, var_in, _ = standardize(widen(x) - offset, range(2, x.dim()), layer.eps)
    if not layer.training and layer.running_mean is not None:
        mean, var = wide_per_channel(x, layer.running_mean, layer.running_var)
        return x_hat, (mean_in, var_in), (mean - offset, var)
    samples = max(x.shape[0], 1)  # without samples the means are 0, not NaN, which would reach the gradients
    mean = mean_in.sum(0, keepdim=True) / samples
    var = (var_in + (mean_in - mean).square()).sum(0, keepdim=True) / samples
    _move(layer, x, mean + offset, var)
    return x_hat, (mean_in, var_in), (mean, var)
