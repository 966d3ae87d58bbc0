"""Norms as other libraries write them: nothing but their forward says what they are."""

import torch
from torch import Tensor, nn


class T5LayerNorm(nn.Module):
    """Called a layer norm, and a root mean square norm."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


class GemmaRMSNorm(nn.Module):
    """With a weight that is 1 less than the factor."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)


class BertLayerNorm(nn.Module):
    """With names of its own, and an eps that is far below float32's resolution."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.variance_epsilon = 1e-12

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(-1, keepdim=True)
        s = (x - u).pow(2).mean(-1, keepdim=True)
        return self.gamma * ((x - u) / torch.sqrt(s + self.variance_epsilon)) + self.beta


class ChannelsFirstNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, correction=0, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class FlaxBatchNorm(nn.Module):
    """With a decay in the place of a momentum, a biased running variance, and names of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.register_buffer("moving_mean", torch.zeros(size))
        self.register_buffer("moving_variance", torch.ones(size))
        self.decay, self.epsilon = 0.99, 1e-3

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moving_mean, self.moving_variance
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            with torch.no_grad():
                self.moving_mean.lerp_(mean.to(self.moving_mean.dtype), 1 - self.decay)
                self.moving_variance.lerp_(var.to(self.moving_variance.dtype), 1 - self.decay)
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + self.epsilon)
        return x * self.scale[:, None, None] + self.offset[:, None, None]


class AbsoluteBatchNorm(nn.BatchNorm2d):
    """Batch norm by class, but the factor is the weight's absolute value."""

    def forward(self, x: Tensor) -> Tensor:
        moved = (self.running_mean, self.running_var)
        return nn.functional.batch_norm(x, *moved, self.weight.abs(), self.bias, self.training, self.momentum, self.eps)


class MaskedBatchNorm(nn.BatchNorm2d):
    """One with another argument."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


class RectifiedGroupNorm(nn.GroupNorm):
    """Group norm by class, but its output is rectified."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class LayerScale(nn.Module):
    """No norm, with one vector."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class PixelNorm(nn.Module):
    """Without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + 1e-8)


class GatedNorm(nn.Module):
    """It cannot be called with its input alone."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.weight * nn.functional.normalize(x * gate, dim=-1)
