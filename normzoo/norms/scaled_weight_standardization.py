"""Scaled weight standardization: weights of mean 0 that keep the variance of the signal, as a parametrization."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normzoo.norms._weights import dims_of_an_output, weight_of
from normzoo.registry import register


class _ScaledWeightStandardization(nn.Module):
    def __init__(self, weight: Tensor, dims: tuple[int, ...], gain: bool, gamma: float, eps: float) -> None:
        super().__init__()
        self.dims = dims
        self.gamma = gamma
        self.eps = eps
        self.fan_in = math.prod([weight.shape[dim] for dim in dims])
        shape = [1 if dim in dims else size for dim, size in enumerate(weight.shape)]
        self.gain = nn.Parameter(weight.new_empty(shape)) if gain else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.gain is not None:
            nn.init.ones_(self.gain)

    def forward(self, weight: Tensor) -> Tensor:
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        centred = wide - wide.mean(self.dims, keepdim=True)
        var = centred.square().mean(self.dims, keepdim=True)
        scale = self.gamma * (self.fan_in * var).clamp(min=self.eps).rsqrt()
        if self.gain is not None:
            scale = scale * self.gain
        return (centred * scale).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"gain={self.gain is not None}, gamma={self.gamma}, eps={self.eps}"


@register(
    "scaled_weight_standardization",
    aliases=("SWS",),
    kind="weight",
    batch_dependent=False,
    paper="Brock, De & Smith, Characterizing Signal Propagation to Close the Performance Gap in Unnormalized ResNets, "
    "2021, arXiv:2101.08692",
    reduces_over="fan-in",
)
def scaled_weight_standardization(
    module: nn.Module, *, tensor_name: str = "weight", gain: bool = True, gamma: float = 1.0, eps: float = 1e-4
) -> nn.Module:
    """Give the weights of each output of a layer mean 0 and a variance that keeps that of the signal.

        weight = gamma · gain · (W − mean) / sqrt(max(n var, eps)),  mean and var over the n weights of an output

    For networks without other norms: of uncorrelated inputs of variance 1 an output has variance gamma² gain², and
    mean 0 whatever their mean.

    Shape: the weight keeps its own.

    Args:
        module: The layer, which is changed and returned; `parametrize.remove_parametrizations` changes it back.
        tensor_name: Which of its tensors.
        gain: Whether to learn a gain for each output, which begins with 1.
        gamma: What makes up for the activation before the layer, sqrt(2 / (1 − 1/π)) = 1.71 for a ReLU; 1 where the
            activation itself is scaled so, as in the authors' networks.
        eps: The least n var.

    Raises:
        ValueError: If the module has no such weight, or an output has a single weight.

    Source: Brock, De & Smith 2021, arXiv:2101.08692, section 4; gain and eps as in the authors' code.
    """
    weight = weight_of("scaled_weight_standardization", module, tensor_name)
    dims = dims_of_an_output("scaled_weight_standardization", module, weight)
    rule = _ScaledWeightStandardization(weight.detach(), dims, gain, gamma, eps)
    parametrize.register_parametrization(module, tensor_name, rule)
    return module
