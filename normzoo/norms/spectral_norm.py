"""Spectral normalization: a layer's weights by their largest singular value, as a parametrization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations, parametrize

from normzoo.norms._recompute import is_in_graph, is_recomputed, state_of_first_run
from normzoo.norms._weights import check_dim, weight_of
from normzoo.registry import register
from normzoo.validation import ArgumentValueError


class _SpectralNorm(parametrizations._SpectralNorm):
    """torch's, with steps that vmap over stacked replicas has rules for, and which a recomputed forward leaves out."""

    @torch.no_grad()
    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if is_recomputed():
            return
        if is_in_graph():
            self._v.copy_(state_of_first_run((self._v,), "spectral_norm")[0])
        for _ in range(n_power_iterations):
            self._u.copy_(F.normalize(torch.mv(weight_mat, self._v), dim=0, eps=self.eps))
            self._v.copy_(F.normalize(torch.mv(weight_mat.H, self._u), dim=0, eps=self.eps))


@register(
    "spectral_norm",
    aliases=("SN",),
    kind="weight",
    batch_dependent=False,
    paper="Miyato, Kataoka, Koyama & Yoshida, Spectral Normalization for GANs, 2018, arXiv:1802.05957",
    reduces_over="weight",
    state=("_u", "_v"),
    peers=("torch.nn.utils.parametrizations.spectral_norm",),
)
def spectral_norm(
    module: nn.Module,
    *,
    tensor_name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> nn.Module:
    """Divide a layer's weights by their largest singular value.

        weight = W / σ(W),  σ(W) = uᵀ W v,  W as a matrix of a row for each output

    An instance of torch's parametrization: u and v are buffers, constants to the gradient, that power iteration moves
    each time the weight is used in training. The matrix of a convolution is that of its kernel, as in the paper, whose
    singular value bounds the kernel and not the convolution.

    Shape: the weight keeps its own.

    Args:
        module: The layer, which is changed and returned; `parametrize.remove_parametrizations` changes it back.
        tensor_name: Which of its tensors.
        n_power_iterations: Steps each time; the paper takes 1.
        eps: The least length that u and v are divided by.
        dim: The dimension of the outputs; None for 0, or 1 in a transposed convolution.

    Raises:
        ValueError: If the module has no such weight, that no such dimension, or there are no steps.

    Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1. torch takes 15 steps to begin with.
    """
    weight = weight_of("spectral_norm", module, tensor_name)
    check_dim("spectral_norm", weight, dim)
    if n_power_iterations < 1:
        raise ArgumentValueError(f"spectral_norm: n_power_iterations is 1 or more; got {n_power_iterations}")
    rows = (1 if isinstance(module, _ConvTransposeNd) else 0) if dim is None else dim
    rule = _SpectralNorm(weight, n_power_iterations, rows, eps)
    parametrize.register_parametrization(module, tensor_name, rule)
    return module
