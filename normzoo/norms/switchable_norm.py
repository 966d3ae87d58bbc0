"""Switchable normalization: statistics of the instance, of the layer and of the batch, blended by learned weights."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._batch_statistics import BatchStatisticsNorm, detached_mean, standardize_instances
from normzoo.norms._layer import scale_and_shift
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms.batch_norm import MEND
from normzoo.registry import register


@register(
    "switchable_norm",
    aliases=("SwitchNorm", "SwitchNorm1d", "SwitchNorm2d", "SwitchNorm3d", "SwitchableNorm2d"),
    batch_dependent=True,
    paper="Luo, Ren, Peng, Zhang & Li, Switchable Normalization, 2018, arXiv:1806.10779",
    reduces_over="*; C, *; N, *",
    train_eval_differ=True,
    state=("running_mean", "running_var", "num_batches_tracked"),
)
class SwitchableNorm(BatchStatisticsNorm):
    """Normalize by a blend of the statistics of instance, layer and batch norm, whose shares the layer learns.

        y = (x − mean) / sqrt(var + eps) · weight + bias
        mean = Σ w_k mean_k,  var = Σ w'_k var_k,  k = instance (*), layer (C, *), batch (N, *)
        w = softmax(mean_weight),  w' = softmax(var_weight)

    All start with equal shares. The statistics of layer and batch come from those of the instances, as in the paper's
    equation 4, but as var_layer = mean over C of var_instance + (mean_instance − mean_layer)², which takes no
    difference of large squares. For evaluation the paper averages the statistics of some batches after training
    (`recalibrate`); here they are running ones, an option of its code. On `(N, C)`, or maps of a single value, there
    are no instances: layer and batch share alone, as in the authors' `SwitchNorm1d`.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`; `mean_weight` and `var_weight` are learned in any case.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
        bias: Whether the affine has a `bias`.

    Source: Luo et al. 2018, arXiv:1806.10779, equations 3 to 5.
    """

    def _complete(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.mean_weight = nn.Parameter(torch.ones(3, device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.ones(3, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "var_weight"):  # not yet, when the base class is built
            nn.init.ones_(self.mean_weight)
            nn.init.ones_(self.var_weight)

    def values_per_statistic(self, shape: Sequence[int]) -> int:
        """Count the values in a statistic of an instance, the smallest of the three; of the batch without those."""
        positions = math.prod(shape[2:])
        return positions if positions != 1 else shape[0]

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        if self.training or self.running_mean is None:
            check_count(self, x.shape, MEND)
        if x.dim() == 2:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        offset = detached_mean(x, tuple(range(x.dim())))  # common to all means that are compared
        x_hat, (mean_in, var_in), (mean_bn, var_bn) = standardize_instances(self, x, offset)
        mean_ln = mean_in.mean(1, keepdim=True)
        var_ln = (var_in + (mean_in - mean_ln).square()).mean(1, keepdim=True)
        first = 1 if math.prod(x.shape[2:]) == 1 else 0  # that has a share
        w, v = (F.pad(each[first:].softmax(0), (first, 0)) for each in (self.mean_weight, self.var_weight))
        mean = w[0] * mean_in + w[1] * mean_ln + w[2] * mean_bn
        rstd = (v[0] * var_in + v[1] * var_ln + v[2] * var_bn + self.eps).rsqrt()
        scale, shift = (var_in + self.eps).sqrt() * rstd, (mean_in - mean) * rstd
        scale, shift = scale_and_shift(scale, self.weight, None), scale_and_shift(shift, self.weight, self.bias)
        return (x_hat * scale + shift).to(x.dtype)
