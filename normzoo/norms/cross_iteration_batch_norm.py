"""Cross-iteration batch normalization: statistics of the last batches, brought up to date with the weights."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normzoo.norms._layer import scale_and_shift
from normzoo.norms._memory import is_transformed
from normzoo.norms._recompute import is_recomputed
from normzoo.norms._refuse import describe, invalid
from normzoo.norms._running import update_running
from normzoo.norms._standardize import per_channel, standardize
from normzoo.norms.batch_norm import PEERS, STATE, BatchNormBase
from normzoo.registry import register

# Nodes of the autograd graph between a weight and its use, and activations, which work on each channel by itself.
CASTS = {"TBackward0", "ToCopyBackward0"}
POINTWISE = "Relu|LeakyRelu|Elu|Gelu|Silu|Mish|Softplus|Tanh|Sigmoid|Hardswish|Hardtanh"
ACTIVATIONS = {f"{name}Backward0" for name in POINTWISE.split("|")}


@dataclass(frozen=True)
class _Past:
    """The mean and variance of a batch, their derivatives by the weight θ that it met, and that weight."""

    mean: Tensor
    var: Tensor
    d_mean: Tensor
    d_var: Tensor
    theta: Tensor

    def fits(self, theta: Tensor) -> bool:
        return all(getattr(self.theta, of) == getattr(theta, of) for of in ("shape", "dtype", "device"))

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance at another θ, to first order in the mean and in the mean of squares."""
        step = theta - self.theta
        shift, growth = ((each * step).flatten(1).sum(1).to(self.mean.dtype) for each in (self.d_mean, self.d_var))
        return self.mean + shift, (self.var + growth - shift.square()).clamp(min=0)


def find_weight(x: Tensor, channels: int) -> Tensor | None:
    """Find the weight of the convolution or dense layer whose output, or a pointwise activation of it, x is.

    It has the output channels first, and is a leaf of the autograd graph; None if there is no such weight.
    """
    node = _skip(x.grad_fn, ACTIVATIONS)
    if node is None or getattr(node, "_saved_transposed", False):  # whose weight has the input channels first
        return None
    leaves = [getattr(_skip(before, CASTS), "variable", None) for before, _ in node.next_functions]
    weights = [leaf for leaf in leaves if leaf is not None and leaf.dim() > 1 and len(leaf) == channels]
    return weights[0] if len(weights) == 1 else None


def _skip(node: Any, names: Collection[str]) -> Any:
    while node is not None and node.name() in names:
        node = node.next_functions[0][0]
    return node


@register(
    "cross_iteration_batch_norm",
    aliases=("CrossIterationBN", "CBatchNorm2d"),
    batch_dependent=True,
    paper="Yao et al., Cross-Iteration Batch Normalization, 2020, arXiv:2002.05712",
    reduces_over="last batches, N, *",
    train_eval_differ=True,
    state=STATE,
    peers=PEERS,
)
class CrossIterationBatchNorm(BatchNormBase):
    """Batch normalization over the last k batches, whose statistics follow the weights θ before it by a Taylor term.

        μ_τ(θ) = μ_τ + ∂μ_τ/∂θ_τ (θ − θ_τ);  ν_τ(θ) = ν_τ + ∂ν_τ/∂θ_τ (θ − θ_τ),  ν the mean of x²,  for past batches τ
        mean = Σ μ_τ(θ) / k;  var = Σ max(ν_τ(θ), μ_τ(θ)²) / k − mean²,  over this batch and the k − 1 before it
        y = (x − mean) / sqrt(var + eps) · weight + bias

    The code has variances in place of ν, whose difference from mean² would lose its digits, which is the same:

        var_τ(θ) = max(0, var_τ + ∂var_τ/∂θ_τ (θ − θ_τ) − (μ_τ(θ) − μ_τ)²)
        var = Σ var_τ(θ) / k + variance of the μ_τ(θ)

    All statistics being functions of θ, the gradient reaches it through the past ones too. The running statistics are
    those of batch norm.

    θ is the weight, output channels first, of the convolution or dense layer before. Given as the second argument of
    the call it may be any tensor that x was computed from; otherwise the layer finds it in the autograd graph of x, if
    x comes straight from that layer, or by a pointwise activation. The derivatives are taken in the forward, by two
    more passes to the weight. The layer keeps 3 (k − 1) times the size of θ, but not in the state dict: after loading
    the window fills again.

    Where there is no θ (no gradient is recorded, or x comes from elsewhere, of which it warns once), the layer is batch
    norm, as the paper finds past statistics without the Taylor term to be worse. It is batch norm under `torch.func`
    transforms too; torch.compile breaks its graph here.

    Shape: `(N, C, *)` -> `(N, C, *)`.

    Args:
        num_features: C.
        window: k, the number of batches, this one included; 1 is batch norm.
        eps: Added to the variance, within the root.
        momentum: Weight of the newest batch in the running statistics; None for their cumulative average.
        affine: Whether to learn `weight` and `bias`.
        burn_in: Training batches that stand alone, while the weights change too much for a first-order term.
        bias: Whether the affine has a `bias`.

    Raises:
        ValueError: If the window or the burn-in is out of its range.
        RuntimeError: If activation checkpointing recomputes it in training.

    Source: Yao et al. 2020, arXiv:2002.05712, section 3. The authors' code leaves out a past batch whose variance is
    negative, where the paper takes the larger of ν and μ². It takes past statistics for constants, with which, unlike
    here and in batch norm, the gradient is not orthogonal to θ, and θ grows.
    """

    shown = (*BatchNormBase.shown, "window", "burn_in")

    def __init__(
        self,
        num_features: int,
        window: int = 8,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        burn_in: int = 0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if window < 1 or burn_in < 0:
            raise invalid(self, f"window is 1 or more and burn_in 0 or more; got window={window}, burn_in={burn_in}")
        super().__init__(num_features, eps, momentum, affine, bias=bias, device=device, dtype=dtype)
        self.window = window
        self.burn_in = burn_in
        self._past: list[_Past] = []  # the newest first
        self._warned = False

    def forward(self, input: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.training and self.window > 1:
            self._check_first_run()
        recorded = torch.is_grad_enabled() and input.requires_grad and (weight is not None or not input.is_leaf)
        if not self.training or not recorded or not input.numel() or self.window == 1:
            return super().forward(input)
        if torch.compiler.is_compiling():
            # Not a decorator, which would load the compiler with every import of the package.
            return torch.compiler.disable(self._forward_window)(input, weight)
        return self._forward_window(input, weight)

    def _forward_window(self, x: Tensor, theta: Tensor | None) -> Tensor:
        self._check_first_run()  # which a compiled forward cannot tell
        theta = self._weight_before(x) if theta is None else theta
        if theta is None or is_transformed(x) or self._burning_in():
            return super().forward(x)
        self._check_input_dim(x)
        n = self.values_per_statistic(x.shape)
        x_hat, own_mean, own_var, _ = standardize(x, (0, *range(2, x.dim())), self.eps)
        own_mean, own_var = own_mean.flatten(), own_var.flatten()
        update_running(self, own_mean.detach(), own_var.detach() * (n / (n - 1)))

        self._past = [past for past in self._past if past.fits(theta)]
        batches = [(own_mean, own_var), *[past.at(theta) for past in self._past]]
        means, variances = (torch.stack(each) for each in zip(*batches, strict=True))
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)

        own_std, rstd = (own_var + self.eps).sqrt(), (var + self.eps).rsqrt()
        self._remember(x, theta, own_mean, own_var, x_hat.detach() * per_channel(own_std.detach(), x))
        # (x − mean) rstd from x_hat and not from x, as the affine maps follow each other and a large offset is gone.
        weight = self.weight if self.affine else 1.0
        scale, shift = weight * own_std * rstd, weight * (own_mean - mean) * rstd
        return scale_and_shift(x_hat, scale, shift if self.bias is None else shift + self.bias).to(x.dtype)

    def _remember(self, x: Tensor, theta: Tensor, mean: Tensor, var: Tensor, centred: Tensor) -> None:
        """Keep the statistics of this batch and their derivatives by θ: of Σ x / n and of Σ (x − mean)² / n."""
        n = self.values_per_statistic(x.shape)
        by_x = (torch.full_like(x, 1 / n), (centred * (2 / n)).to(x.dtype))
        d_mean, d_var = (torch.autograd.grad(x, theta, each, retain_graph=True)[0] for each in by_x)
        # A batch that is not finite would spoil the next ones, too.
        if mean.is_meta or torch.stack([each.isfinite().all() for each in (mean, var, d_mean, d_var)]).all():
            past = _Past(mean.detach(), var.detach(), d_mean, d_var, theta.detach().clone())
            self._past = [past, *self._past][: self.window - 1]

    def _burning_in(self) -> bool:
        # The count is read back from the device, but only if there is a burn-in, and until it is over.
        if self.burn_in and not self._past:
            return int(self.num_batches_tracked or 0) < self.burn_in
        return False

    def _check_first_run(self) -> None:
        if is_recomputed():
            raise RuntimeError(
                f"{describe(self)} differentiates its statistics in the forward, which activation checkpointing runs "
                f"without a graph or with one that is not kept: leave this layer and the one before it out of what is "
                f"checkpointed, or build it with window=1, which is batch norm"
            )

    def _weight_before(self, x: Tensor) -> Tensor | None:
        theta = find_weight(x, self.num_features)
        if theta is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self} finds no weight before it that it could follow, and is batch norm here: put it after a "
                f"convolution or a dense layer, or call it with that weight as its second argument",
                stacklevel=2,
            )
        return theta
