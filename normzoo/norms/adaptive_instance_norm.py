"""Adaptive instance normalization: mean and deviation of each channel as they are in another feature map."""

import torch
from torch import Tensor

from normzoo.norms._condition import check_condition, per_sample
from normzoo.norms._layer import NormLayer
from normzoo.norms._refuse import check_count, check_input
from normzoo.norms._standardize import standardize
from normzoo.norms.instance_norm import MEND
from normzoo.registry import register


@register(
    "adaptive_instance_norm",
    aliases=("AdaIN", "AdaptiveInstanceNorm2d"),
    kind="conditional",
    batch_dependent=False,
    paper="Huang & Belongie, Adaptive Instance Normalization, 2017, arXiv:1703.06868",
    reduces_over="*",
    ranks=(3, 4, 5),
)
class AdaptiveInstanceNorm(NormLayer):
    """Give each channel of each sample the mean and the standard deviation that it has in another feature map.

        y = (x − mean) / sqrt(var + eps) · sqrt(var_s + eps) + mean_s
        mean and var of x, mean_s and var_s of the condition s, over (*)

    The paper's norm, which learns nothing: the condition is the feature map of a style image. Where the two means and
    deviations are learned from a style vector, as in StyleGAN, it is `nn.Linear` before `instance_norm(affine=False)`.
    All variances are biased, as those of instance norm.

    Shape: `(N, C, *)` and a condition `(N, C, *)`, of any positions -> `(N, C, *)`, both with one dimension of
    positions or more.

    Args:
        num_features: C.
        eps: Added to the variances, within the root.

    Raises:
        ValueError: If the condition has other samples or channels.

    Source: Huang & Belongie 2017, arXiv:1703.06868, equation 8.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps

    def example_condition(self, x: Tensor) -> Tensor:
        """A random feature map of the shape of `x`."""
        return torch.randn_like(x)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        positions = [None] * max(condition.dim() - 2, 1)
        check_condition(self, condition, (*x.shape[:2], *positions), "the feature map of a style")
        for shape in (x.shape, condition.shape):
            check_count(self, shape, MEND)
        x_hat, *_ = standardize(x, range(2, x.dim()), self.eps)
        _, mean, var, _ = standardize(condition, range(2, condition.dim()), self.eps)
        mean, std = mean.flatten(1), (var + self.eps).sqrt().flatten(1)
        return (x_hat * per_sample(std, x) + per_sample(mean, x)).to(x.dtype)
