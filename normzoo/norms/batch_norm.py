"""Batch normalization: mean and variance of each channel over the batch and the positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normzoo.norms._batch_statistics import BatchStatisticsNorm, standardize_batch
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._masked import takes_mask
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms._running import update_running
from normzoo.registry import register

PAPER = "Ioffe & Szegedy, Batch Normalization, 2015, arXiv:1502.03167"
STATE = ("running_mean", "running_var", "num_batches_tracked")
PEERS = ("torch.nn.BatchNorm1d", "torch.nn.BatchNorm2d", "torch.nn.BatchNorm3d", "torch.nn.SyncBatchNorm")
MEND = "use a larger batch or a larger map, or a norm that does not depend on the batch, such as group_norm"


class BatchNormBase(BatchStatisticsNorm):
    """Compute batch norm with torch's kernel, for norms that are batch norm with a difference.

    They are not instances of torch's `_BatchNorm`, each of which `convert_sync_batchnorm`, timm's and Lightning's too,
    replaces by a SyncBatchNorm: the difference would be lost without a word. `update_bn` goes by class as well, and
    skips them: after weights are averaged, `normzoo.surgery.recalibrate.recalibrate` updates all norms.
    """

    reduces_over = "N, *"  # of the parts of a layer too, which are not registered

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether the next forward normalizes by the batch's own statistics."""
        return self.training or self.running_mean is None

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(self, input, self.num_features)
        if self.uses_batch_statistics:
            check_count(self, input.shape, MEND)

    @takes_mask
    def forward(self, input: Tensor) -> Tensor:
        tracking = self.training and self.track_running_stats and self.running_mean is not None
        if tracking and (self.momentum is None or is_recomputed()):
            return self._forward_apart(input)
        return _BatchNorm.forward(self, input)  # type: ignore[arg-type]

    def _forward_apart(self, x: Tensor) -> Tensor:
        """Run the kernel without the running statistics, which are moved after it, if at all."""
        self._check_input_dim(x)
        assert self.running_mean is not None
        # With momentum 1 the kernel writes the batch's own mean and unbiased variance, of which float16 may write less.
        wide = torch.promote_types(self.running_mean.dtype, torch.float32)
        mean, var = (x.new_zeros(self.num_features, dtype=wide) for _ in range(2))
        weight, bias = (None if p is None else p.to(wide) for p in (self.weight, self.bias))
        y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, self.eps)
        if x.numel():
            update_running(self, mean, var)
        return y


@register(
    "batch_norm",
    aliases=("BN", "BN1d", "BN2d", "BN3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
    batch_dependent=True,
    paper=PAPER,
    reduces_over="N, *",
    train_eval_differ=True,
    state=STATE,
    fused=True,
    peers=PEERS,
)
class BatchNorm(BatchNormBase, nn.BatchNorm2d):
    """Normalize each channel over the batch and the positions; with running statistics in evaluation.

        y = (x − mean) / sqrt(var + eps) · weight + bias,  mean and var over (N, *)
        running ← (1 − momentum) · running + momentum · new,  new var unbiased

    torch's layer and kernel for any number of positions' dimensions, and an instance of `nn.BatchNorm2d`, which
    `convert_sync_batchnorm`, `update_bn` and weight-decay filters look for.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average, which,
            unlike torch's, is not read back from the device and compiles into one graph.
        affine: Whether to learn `weight` and `bias`.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """


@register(
    "batch_norm_scratch",
    batch_dependent=True,
    paper=PAPER,
    reduces_over="N, *",
    train_eval_differ=True,
    state=STATE,
    peers=PEERS,
)
class BatchNormScratch(BatchNorm):
    """Batch normalization as its paper writes it: Algorithm 1 in training, Algorithm 2 in evaluation.

        training:    mean = Σ x / m;  var = Σ (x − mean)² / m;  x_hat = (x − mean) / sqrt(var + eps)
        evaluation:  x_hat = (x − E) / sqrt(Var + eps)
        y = weight · x_hat + bias

    with m = N · positions, E the running mean of x and Var the running mean of m / (m − 1) · var. At
    weight = sqrt(var + eps), bias = mean the layer gives back its input. The equation is in `_standardize.py`, its
    backward, the paper's chain rule, in `_kernels/standardize.py`.

    Shape: `(N, C, *)` -> `(N, C, *)`; `(N, C)` after a dense layer, `(N, C, H, W)` after a convolution.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics, as in torch; None for their cumulative average,
            as in the paper, which averages over training batches after training.
        affine: Whether to learn `weight` and `bias`.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        moving_average_fraction: α, to keep the running statistics as Caffe does (0.999 there) instead of by
            `momentum`, which becomes 1 − α: after t batches the newest weighs (1 − α) / (1 − αᵗ), so that the
            initial value is gone after the first. torch's `convert_sync_batchnorm` drops this rule and keeps the
            momentum.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If α is not between 0 and 1.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3; Caffe's BatchNorm layer.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        moving_average_fraction: float | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if moving_average_fraction is not None:
            if not 0 < moving_average_fraction < 1:
                said = "moving_average_fraction is what a running statistic keeps of its past, between 0 and 1, such as"
                raise invalid(self, f"{said} 0.999; got {moving_average_fraction}")
            momentum = 1 - moving_average_fraction
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, device=device, dtype=dtype
        )
        self._moves_as_caffe = moving_average_fraction is not None

    @property
    def moving_average_fraction(self) -> float | None:
        """α of Caffe's rule, 1 − momentum; None where the running statistics are moved as torch's are."""
        return 1 - self.momentum if self._moves_as_caffe and self.momentum is not None else None

    @takes_mask
    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        x_hat = standardize_batch(self, x)
        return scale_and_shift(x_hat, self.weight, self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        fraction = self.moving_average_fraction
        return super().extra_repr() + (f", moving_average_fraction={fraction:.6g}" if fraction is not None else "")
