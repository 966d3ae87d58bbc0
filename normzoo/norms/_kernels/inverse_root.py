"""Σ^(−1/2) of symmetric matrices, with a gradient that holds where eigenvalues are equal."""

from typing import Any

import torch
from torch import Tensor

from normzoo.norms._kernels import Kernel


class _InverseRoot(Kernel):
    """S = Σ^(−1/2) = V diag(s) Vᵀ with Σ = V diag(λ) Vᵀ and s = λ^(−1/2).

    The derivative of V divides by differences of eigenvalues, that of S does not (Daleckii & Krein): with G = ∂l/∂S,

        Vᵀ ∂l/∂Σ V = −(Vᵀ G V)ᵢⱼ sᵢ² sⱼ² / (sᵢ + sⱼ)

    which is −X of S X + X S = S² G S². In that form it can be differentiated again, through S.
    """

    @staticmethod
    def forward(sigma: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
        # What has diverged comes out as NaN, as from every other norm; eigh would raise.
        finite = sigma.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        identity = torch.eye(sigma.shape[-1], dtype=sigma.dtype, device=sigma.device)
        eigenvalues, v = torch.linalg.eigh(torch.where(finite, sigma, identity))
        s = eigenvalues.clamp(min=floor).rsqrt()
        s = torch.where(finite.squeeze(-1), s, torch.nan)
        return (v * s.unsqueeze(-2)) @ v.mT, s, v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        root, s, v = ctx.saved_tensors
        square = root @ root
        return -_Sylvester.apply(root, square @ grad @ square, s, v), None


class _Sylvester(Kernel):
    """X of A X + X A = Q, for A = V diag(a) Vᵀ: Vᵀ X V = (Vᵀ Q V)ᵢⱼ / (aᵢ + aⱼ).

    As A dX + dX A = dQ − dA X − X dA, the gradients are solutions too: ∂l/∂Q = L of A L + L A = ∂l/∂X, and
    ∂l/∂A = −(L Xᵀ + Xᵀ L).
    """

    @staticmethod
    def forward(matrix: Tensor, q: Tensor, a: Tensor, v: Tensor) -> Tensor:
        return v @ ((v.mT @ q @ v) / (a.unsqueeze(-1) + a.unsqueeze(-2))) @ v.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        matrix, _, a, v = inputs
        ctx.save_for_backward(matrix, output, a, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        matrix, x, a, v = ctx.saved_tensors
        solution = _Sylvester.apply(matrix, grad, a, v)
        return -(solution @ x.mT + x.mT @ solution), solution, None, None


def inverse_root(sigma: Tensor, floor: float) -> Tensor:
    """Compute Σ^(−1/2) of symmetric, positive definite matrices; can be differentiated, twice and more.

    Shape: `(*, d, d)` -> `(*, d, d)`.

    Args:
        sigma: Σ.
        floor: The minimum of an eigenvalue, below which only rounding can have brought it.

    Source: Daleckii & Krein, Integration and differentiation of functions of Hermitian operators, 1965.
    """
    return _InverseRoot.apply(sigma, floor)[0]
