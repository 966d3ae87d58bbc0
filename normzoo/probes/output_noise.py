"""Add noise after every norm, with a distribution that changes at each step: deliberate covariate shift."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normzoo.errors import UserError
from normzoo.probes._callback import Probe, inner_model
from normzoo.probes._layers import all_norms


def add_output_noise(
    model: nn.Module,
    *,
    shift: float = 0.5,
    scale: float = 1.25,
    shift_spread: float = 0.1,
    scale_spread: float = 0.1,
    channel_dim: int = 1,
) -> list[RemovableHandle]:
    """Perturb each activation after each norm by noise of non-zero mean and non-unit variance.

        once a step for each channel:          μ ~ U(−shift, shift),   σ ~ U(1, scale)
        for each sample, channel, position:    m ~ U(μ − shift_spread, μ + shift_spread),   s ~ N(σ, scale_spread²)
        y ← s · y + m

    Noise is added only if the norm is in training mode and gradients are recorded. A step is one forward pass, so each
    accumulated batch has its own distribution. The draws come from torch's global generator, like dropout's.

    Cost: two random tensors of the size of each norm's output; nothing in evaluation.

    Args:
        model: Model to change in place.
        shift: Largest shift of a channel's mean.
        scale: Largest scale of a channel; shift=0, scale=1 and no spread add no noise.
        shift_spread: Spread of the shift of single activations.
        scale_spread: Spread of the scale of single activations.
        channel_dim: Dimension of the channels.

    Returns:
        Handles; `handle.remove()` of each removes the noise. See also `output_noise`.

    Raises:
        ValueError: If the model has no norm, or an option is out of range.

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, section 2.1, the "noisy" BatchNorm. The paper
    specifies i.i.d. noise from a distribution of non-zero mean and non-unit variance that changes at every step; the
    form and sizes above are our reading, with one distribution per channel.
    """
    _check(shift, scale, shift_spread, scale_spread)
    norms = [norm for _, norm in all_norms(model)]
    if not norms:
        raise ValueError("this model has no norm to add noise to")

    # A function rather than an object, so that copies of the model, as other probes make, share it.
    def perturb(norm: nn.Module, _: Any, y: Tensor) -> Tensor | None:
        if not norm.training or not torch.is_grad_enabled():
            return None
        channels = [1] * y.dim()
        channels[channel_dim] = y.shape[channel_dim]
        mean = torch.empty(channels, dtype=y.dtype, device=y.device).uniform_(-shift, shift)
        std = torch.empty_like(mean).uniform_(1, scale)
        m = mean + torch.empty_like(y, requires_grad=False).uniform_(-shift_spread, shift_spread)
        s = std + scale_spread * torch.randn_like(y, requires_grad=False)
        return s * y + m

    return [norm.register_forward_hook(perturb) for norm in norms]


def _check(shift: float, scale: float, shift_spread: float, scale_spread: float) -> None:
    if shift < 0 or scale < 1 or shift_spread < 0 or scale_spread < 0:
        raise ValueError(
            f"scale must be at least 1 and the others at least 0, got shift={shift}, scale={scale}, "
            f"shift_spread={shift_spread}, scale_spread={scale_spread}"
        )


@contextmanager
def output_noise(model: nn.Module, **options: Any) -> Iterator[None]:
    """Apply `add_output_noise` within the context."""
    handles = add_output_noise(model, **options)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class OutputNoise(Probe):
    """Apply `add_output_noise` during fitting; it changes the training and measures nothing.

    Args:
        shift, scale, shift_spread, scale_spread: See `add_output_noise`.
    """

    def __init__(
        self, shift: float = 0.5, scale: float = 1.25, shift_spread: float = 0.1, scale_spread: float = 0.1
    ) -> None:
        super().__init__()
        try:
            _check(shift, scale, shift_spread, scale_spread)
        except ValueError as error:
            raise UserError(f"OutputNoise: {error}") from error
        self.options: dict[str, Any] = {
            "shift": shift,
            "scale": scale,
            "shift_spread": shift_spread,
            "scale_spread": scale_spread,
        }
        self._handles: list[RemovableHandle] = []

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        """Add the noise."""
        try:
            self._handles = add_output_noise(inner_model(module), **self.options)
        except ValueError as error:
            raise UserError(f"OutputNoise: {error}") from error

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        """Remove the noise."""
        self._remove()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Remove the noise."""
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
