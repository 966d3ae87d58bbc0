"""Iterative normalization: decorrelated batch norm by a few of Newton's iterations."""

import torch
from torch import Tensor

from normzoo.norms._refuse import invalid
from normzoo.norms.decorrelated_batch_norm import STATE, DecorrelatedBatchNorm
from normzoo.registry import register


@register(
    "iter_norm",
    aliases=("ItN", "IterativeNormalization"),
    batch_dependent=True,
    paper="Huang, Zhou, Zhu, Liu & Shao, Iterative Normalization, 2019, arXiv:1904.03441",
    reduces_over="N, * jointly for C/G",
    train_eval_differ=True,
    state=STATE,
)
class IterNorm(DecorrelatedBatchNorm):
    """Whiten groups of channels over the batch and the positions as far as T of Newton's iterations go.

        y = W (x − mean) · weight + bias,  W = P_T / sqrt(tr Σ)
        Σ = (x − mean) (x − mean)ᵀ / m + eps I,  mean and Σ over (N, *), for each group of channels
        P_0 = I,  P_k = (3 P_{k−1} − P_{k−1}³ Σ / tr Σ) / 2,  which tends to (Σ / tr Σ)^(−1/2)
        running ← (1 − momentum) · running + momentum · new,  for the mean and for W

    Directions of much variance are whitened in a few steps, others keep less than theirs: with T = 5 a direction with a
    tenth of its group's variance comes to a variance of 0.995, one with a hundredth to 0.43. It needs no eigenvectors,
    and as many values of each channel as `decorrelated_batch_norm`.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        num_groups: G, a divisor of C; by default as in `decorrelated_batch_norm`, where the authors' code has 1.
        eps: Added to the diagonal of Σ.
        momentum: Weight of the newest batch in the running mean and W; None for their cumulative average.
        affine: Whether to learn a `weight` and a `bias` for each channel.
        iterations: T.
        channels_per_group: C/G instead of G; larger than C is one group.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If C does not divide into such groups (the message lists the divisors), T is less than 1, or a
            training batch has too few values to whiten a group.

    Source: Huang et al. 2019, arXiv:1904.03441, section 3 and Algorithm 1.
    """

    shown = (*DecorrelatedBatchNorm.shown, "iterations")

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        iterations: int = 5,
        channels_per_group: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if iterations < 1:
            raise invalid(
                self, f"iterations is the number of Newton's steps, 1 or more (5 in the paper); got {iterations}"
            )
        super().__init__(
            num_features,
            num_groups,
            eps,
            momentum,
            affine,
            channels_per_group=channels_per_group,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.iterations = iterations

    def _whiten(self, sigma: Tensor) -> Tensor:
        trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        identity = torch.eye(sigma.shape[-1], dtype=sigma.dtype, device=sigma.device)
        # With M = P² Σ / tr Σ kept beside P, rounding does not grow from one iteration to the next (Iannazzo 2006).
        p, m = identity.expand_as(sigma), sigma / trace
        for _ in range(self.iterations):
            step = 1.5 * identity - 0.5 * m
            p, m = p @ step, step @ step @ m
        return p * trace.rsqrt()
