"""Weight normalization: length and direction of a layer's weights apart, as a parametrization."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from normzoo.norms._weights import check_dim, weight_of
from normzoo.registry import register


class _WeightNorm(parametrizations._WeightNorm):
    """torch's, from the equation: its kernel has second derivatives that take ‖v‖ for a constant."""

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        wide = weight_v.to(torch.promote_types(weight_v.dtype, torch.float32))
        return (wide * (weight_g / torch.norm_except_dim(wide, 2, self.dim))).to(weight_v.dtype)


@register(
    "weight_norm",
    aliases=("WN",),
    kind="weight",
    batch_dependent=False,
    paper="Salimans & Kingma, Weight Normalization, 2016, arXiv:1602.07868",
    reduces_over="fan-in",
    peers=("torch.nn.utils.parametrizations.weight_norm",),
)
def weight_norm(module: nn.Module, *, tensor_name: str = "weight", dim: int | None = 0) -> nn.Module:
    """Learn length and direction of a layer's weights apart.

        weight = g · v / ‖v‖,  ‖v‖ over the weights of an output

    An instance of torch's parametrization: `parametrizations.weight.original0` is g, `original1` v. They begin with the
    weight that is there, where the paper takes lengths and biases from the outputs of a first batch. Unlike torch's it
    can be differentiated twice.

    Shape: the weight keeps its own.

    Args:
        module: The layer, which is changed and returned; `parametrize.remove_parametrizations` changes it back.
        tensor_name: Which of its tensors.
        dim: The dimension of the outputs, 1 in a transposed convolution; None, or as in torch -1, for one length of
            the whole tensor.

    Raises:
        ValueError: If the module has no such weight, or that no such dimension.

    Source: Salimans & Kingma 2016, arXiv:1602.07868, equation 2.
    """
    weight = weight_of("weight_norm", module, tensor_name)
    check_dim("weight_norm", weight, dim, " (None or -1 for one length of the whole tensor)")
    parametrizations.weight_norm(module, tensor_name, dim)  # type: ignore[arg-type]  # None is documented
    module.get_submodule(f"parametrizations.{tensor_name}")[0] = _WeightNorm(dim)  # type: ignore[operator]
    return module
