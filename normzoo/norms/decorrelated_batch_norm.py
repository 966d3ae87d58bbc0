"""Decorrelated batch normalization: channels of variance 1 and no correlation, over the batch and the positions."""

import contextlib

import torch
from torch import Tensor

from normzoo.norms._kernels.inverse_root import inverse_root
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._memory import channels_last, is_channels_last
from normzoo.norms._refuse import NormValueError, check_count, check_input
from normzoo.norms._running import RunningNorm, move_running
from normzoo.norms._standardize import centre, widen
from normzoo.norms.group_norm import divisors, number_of_groups
from normzoo.registry import register

MEND = "use a larger batch or a larger map"
STATE = ("running_mean", "running_whitening", "num_batches_tracked")
DEFAULT_CHANNELS = 16


@register(
    "decorrelated_batch_norm",
    aliases=("DBN", "DecorrelatedBN", "ZCA"),
    batch_dependent=True,
    paper="Huang, Yang, Lang & Deng, Decorrelated Batch Normalization, 2018, arXiv:1804.08450",
    reduces_over="N, * jointly for C/G",
    train_eval_differ=True,
    state=STATE,
)
class DecorrelatedBatchNorm(RunningNorm):
    """Whiten groups of channels over the batch and the positions: ZCA, by an eigendecomposition.

        y = W (x − mean) · weight + bias,  W = Σ^(−1/2) = D Λ^(−1/2) Dᵀ
        Σ = (x − mean) (x − mean)ᵀ / m + eps I = D Λ Dᵀ,  mean and Σ over (N, *), for each group of channels
        running ← (1 − momentum) · running + momentum · new,  for the mean and for W

    One channel to a group is batch norm. m = d values of each of d channels do not determine W: they lie in a space of
    d − 1 dimensions, and are whitened to the same distances from each other whatever they were. So m must be larger
    than the number of channels in a group (`minimum_count`): 17 for groups of 16, as on 5 images of 2×2. With less the
    layer raises an error that names the `channels_per_group` that will do; if it regrouped by itself, what it computes,
    and its running matrices, would depend on the size of a batch.

    The gradient is that of the matrix function Σ^(−1/2). The paper's runs through the derivative of D, which divides
    by differences of eigenvalues and is not finite where two are equal; elsewhere they are the same.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C. By default two or more, of at most 16 channels, the authors' number in residual
            networks: 4 channels for C = 8, 16 for 64.
        eps: Added to the diagonal of Σ.
        momentum: Weight of the newest batch in the running mean and W; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        channels_per_group: d = C/G instead of G; larger than C is one group.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If C does not divide into such groups (the message lists the divisors), or in training there are too
            few values to whiten a group.

    Source: Huang et al. 2018, arXiv:1804.08450, section 3 and Algorithm 1.
    """

    shown: tuple[str, ...] = ("num_groups", "eps", "momentum", "affine")
    starts = (("running_mean", 0.0),)
    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        channels_per_group: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, affine, device, dtype, bias=bias)
        if num_groups is None and channels_per_group is None:
            most = min(DEFAULT_CHANNELS, max(num_features // 2, 1))
            channels_per_group = max(d for d in divisors(num_features) if d <= most)
        self.num_groups = number_of_groups(self, num_features, num_groups, channels_per_group)
        self.channels_per_group = num_features // self.num_groups
        self.eps = eps
        self.momentum = momentum
        d = self.channels_per_group
        self.register_buffer("running_whitening", torch.empty(self.num_groups, d, d, device=device, dtype=dtype))
        self._register_statistics(device, dtype)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        super().reset_running_stats()
        with torch.no_grad():
            identity = torch.eye(self.channels_per_group, device=self.running_whitening.device)
            self.running_whitening.copy_(identity.expand_as(self.running_whitening))

    @property
    def minimum_count(self) -> int:
        """The minimum number of values of each channel, so that they determine W."""
        return self.channels_per_group + 1

    def _whiten(self, sigma: Tensor) -> Tensor:
        return inverse_root(sigma, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        if not x.numel():
            return scale_and_shift(x, self.weight, self.bias).to(x.dtype)
        # Covariances of half precision would be worth nothing, so autocast must not reach these products.
        with torch.autocast(x.device.type, enabled=False) if not x.is_meta else contextlib.nullcontext():
            grouped = widen(x).transpose(0, 1).reshape(self.num_groups, self.channels_per_group, -1)
            if self.training:
                centred, whitening = self._batch_statistics(grouped)
            else:
                centred = grouped - self.running_mean.view(self.num_groups, -1, 1)
                whitening = self.running_whitening.to(centred.dtype)
            y = self._transform(centred, whitening.to(centred.dtype))
        y = y.view(self.num_features, x.shape[0], *x.shape[2:]).transpose(0, 1).to(x.dtype)
        return channels_last(y) if is_channels_last(x) else y.contiguous()

    def _check(self, x: Tensor) -> None:
        check_input(self, x, self.num_features)
        if not self.training:
            return
        check_count(self, x.shape, MEND)
        count = self.values_per_statistic(x.shape)
        if 0 < count < self.minimum_count:
            fits = max(d for d in divisors(self.num_features) if d < count)
            raise NormValueError(
                f"{self} got the shape {tuple(x.shape)}, which leaves {count} values of each channel to whiten groups "
                f"of {self.channels_per_group} channels; at least {self.minimum_count} are needed for a covariance of "
                f"full rank: build it with channels_per_group={fits} or less, or {MEND}"
            )

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centred groups and their W, and move the running mean and W."""
        centred, mean = centre(x, (-1,))
        # These matrices are small, and rounding in their root would reach every value.
        wide = torch.float64 if x.device.type != "mps" else x.dtype
        sigma = (centred @ centred.mT / x.shape[-1]).to(wide)
        whitening = self._whiten(sigma + self.eps * torch.eye(x.shape[1], dtype=wide, device=x.device)).to(x.dtype)
        moves = ((self.running_mean, mean), (self.running_whitening, whitening))
        move_running(self.num_batches_tracked, self.momentum, *moves)
        return centred, whitening

    def _transform(self, centred: Tensor, whitening: Tensor) -> Tensor:
        # The weight goes into W, so that the whitened values are not saved for its gradient.
        weight, bias = (
            None if vector is None else vector.to(centred.dtype).view(self.num_groups, -1, 1)
            for vector in (self.weight, self.bias)
        )
        whitening = whitening if weight is None else weight * whitening
        return whitening @ centred if bias is None else torch.baddbmm(bias, whitening, centred)
