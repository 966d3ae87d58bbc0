"""Weight standardization: mean 0 and variance 1 for the weights of each output, as a parametrization."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from normzoo.norms._standardize import standardize
from normzoo.norms._weights import dims_of_an_output, weight_of
from normzoo.registry import register


class _WeightStandardization(nn.Module):
    def __init__(self, dims: tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.dims = dims
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        w_hat, *_ = standardize(weight, self.dims, self.eps)
        return w_hat

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


@register(
    "weight_standardization",
    aliases=("WS",),
    kind="weight",
    batch_dependent=False,
    paper="Qiao, Wang, Liu, Shen & Yuille, Weight Standardization, 2019, arXiv:1903.10520",
    reduces_over="fan-in",
)
def weight_standardization(module: nn.Module, *, tensor_name: str = "weight", eps: float = 1e-5) -> nn.Module:
    """Give the weights of each output of a layer mean 0 and variance 1.

        weight = (W − mean) / sqrt(var + eps),  mean and var over the weights of an output

    For layers that a norm follows, such as group norm, which takes out the scale of the outputs.

    Shape: the weight keeps its own.

    Args:
        module: The layer, which is changed and returned; `parametrize.remove_parametrizations` changes it back.
        tensor_name: Which of its tensors.
        eps: Added to the variance, within the root.

    Raises:
        ValueError: If the module has no such weight, or an output has a single weight.

    Source: Qiao et al. 2019, arXiv:1903.10520. The authors' PyTorch code takes the unbiased
    deviation, and adds eps to it outside of the root.
    """
    weight = weight_of("weight_standardization", module, tensor_name)
    dims = dims_of_an_output("weight_standardization", module, weight)
    parametrize.register_parametrization(module, tensor_name, _WeightStandardization(dims, eps))
    return module
