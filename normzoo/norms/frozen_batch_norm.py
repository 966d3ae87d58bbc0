"""Frozen batch normalization: an affine map of each channel, by statistics that no longer change."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normzoo.norms._refuse import check_input
from normzoo.norms.batch_norm import PEERS
from normzoo.registry import register


@register(
    "frozen_batch_norm",
    aliases=("FrozenBN", "FrozenBatchNorm2d"),
    batch_dependent=False,
    paper="He et al., Deep Residual Learning, 2015, arXiv:1512.03385; as a layer Wu et al., Detectron2, 2019",
    reduces_over="-",
    fused=True,
    peers=("torchvision.ops.FrozenBatchNorm2d", *PEERS),
)
class FrozenBatchNorm(nn.Module):
    """Scale and shift each channel by the fixed statistics, weight and bias of a batch norm trained before.

        y = (x − running_mean) / sqrt(running_var + eps) · weight + bias,  all four buffers

    It has no parameters, and is the same in training and in evaluation. It loads the state dict of any batch norm that
    has an affine part, torch's included; new, it is the identity but for eps. torchvision and detectron2 call it
    FrozenBatchNorm2d.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        eps: Added to the variance, within the root; that of the batch norm whose statistics it holds.

    Source: He et al. 2015, arXiv:1512.03385, appendix A, which fixes the statistics of a network trained on ImageNet
    while it is fine-tuned on small batches.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for one, zero in ((self.weight, self.bias), (self.running_var, self.running_mean)):
            one.fill_(1)
            zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.num_features)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A batch norm counts its batches; nothing here changes with that number.
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"
