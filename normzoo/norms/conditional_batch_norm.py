"""Conditional batch normalization: a weight and a bias of its own for each class."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normzoo.norms._batch_statistics import standardize_batch
from normzoo.norms._condition import check_labels, per_sample
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input, invalid
from normzoo.norms.batch_norm import MEND, STATE
from normzoo.registry import register


@register(
    "conditional_batch_norm",
    aliases=("ConditionalBN", "CondBN", "ConditionalBatchNorm1d", "ConditionalBatchNorm2d", "ConditionalBatchNorm3d"),
    kind="conditional",
    batch_dependent=True,
    paper="de Vries et al., Modulating early visual processing by language, 2017, arXiv:1707.00683; Dumoulin, Shlens & "
    "Kudlur, A Learned Representation for Artistic Style, 2017, arXiv:1610.07629",
    reduces_over="N, *",
    train_eval_differ=True,
    state=STATE,
)
class ConditionalBatchNorm(NormLayer, _NormBase):
    """Normalize as batch norm does, then scale and shift each sample by the weight and the bias of its class.

        y_n = (x_n − mean) / sqrt(var + eps) · weight[c_n] + bias[c_n],  mean and var over (N, *)
        running ← (1 − momentum) · running + momentum · new,  new var unbiased

    The statistics run over all classes. `weight` and `bias` have a row for each class: Dumoulin et al. condition an
    instance norm on a style in this way, and image generators (Miyato & Koyama 2018, arXiv:1802.05637) call it
    conditional batch norm. de Vries et al., who named it, predict changes to a trained weight and bias from a question.

    Shape: `(N, C, *)` and a condition `(N,)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_classes: The number of classes; a condition is a class, from 0, for each sample.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.

    Raises:
        ValueError: If there is no class, or the condition is not one whole number a sample.
        IndexError: If a class is not one of `num_classes`.

    Source: Dumoulin et al. 2017, arXiv:1610.07629, section 2.2; de Vries et al. 2017, arXiv:1707.00683, section 3.2.
    """

    shown = ("num_classes", "eps", "momentum", "track_running_stats")

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_classes < 1:
            raise invalid(self, f"num_classes is a number of classes, 1 or more; got {num_classes}")
        super().__init__(num_features, eps, momentum, False, track_running_stats, device=device, dtype=dtype)
        self.num_classes = num_classes
        self.affine = True
        self.weight = nn.Parameter(torch.empty(num_classes, num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_classes, num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def example_condition(self, x: Tensor) -> Tensor:
        """A random class for each sample of `x`."""
        return torch.randint(self.num_classes, (x.shape[0],), device=x.device)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        condition = check_labels(self, condition, x.shape[0], "a class for each sample", self.num_classes)
        if self.training or self.running_mean is None:
            check_count(self, x.shape, MEND)
        x_hat = standardize_batch(self, x)
        y = x_hat * per_sample(self.weight[condition], x) + per_sample(self.bias[condition], x)
        return y.to(x.dtype)
