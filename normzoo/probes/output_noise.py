"""Noise behind every norm, whose distribution changes at each step: covariate shift put in by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normzoo.errors import UserError
from normzoo.probes._callback import Callback, inner
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
    """Perturb each activation behind each norm, for each sample, by noise of non-zero mean and non-unit variance.

        once a step for each channel:          μ ~ U(−shift, shift),   σ ~ U(1, scale)
        for each sample, channel, position:    m ~ U(μ − shift_spread, μ + shift_spread),   s ~ N(σ, scale_spread²)
        y ← s · y + m

    Only in training: where a norm is in evaluation mode, or no gradient is recorded, nothing is added. A step is one
    forward pass, so that each of several accumulated batches has a distribution of its own. The draws are those of
    torch's generator, as dropout's are.

    Cost: two random tensors of the size of each norm's output; nothing in evaluation.

    Args:
        shift, scale: How far the distribution of a channel may move in a step; shift=0, scale=1 and no spread are none.
        shift_spread, scale_spread: How far single activations scatter about it.
        channel_dim: Where channels stand.

    Returns:
        The handles: `handle.remove()` of each takes the noise away again; see also `output_noise`.

    Raises:
        ValueError: If the model has no norm, or an option is out of its range.

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, section 2.1, the "noisy" BatchNorm. The paper
    speaks of i.i.d. noise from a distribution of non-zero mean and non-unit variance, which changes at every step; the
    form and the sizes above are the reading of it here, with one distribution a channel.
    """
    _check(shift, scale, shift_spread, scale_spread)
    norms = [norm for _, norm in all_norms(model)]
    if not norms:
        raise ValueError("this model has no norm to put noise behind")

    # A function and not an object: copies of the model, such as other probes make, keep the hook as it is.
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
            f"scale is 1 or more, and the others 0 or more; got shift={shift}, scale={scale}, "
            f"shift_spread={shift_spread}, scale_spread={scale_spread}"
        )


@contextmanager
def output_noise(model: nn.Module, **options: Any) -> Iterator[None]:
    """`add_output_noise` for as long as the context lasts."""
    handles = add_output_noise(model, **options)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class OutputNoise(Callback):
    """`add_output_noise` while the model is fitted; it changes the training, and measures nothing.

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
        try:
            self._handles = add_output_noise(inner(module), **self.options)
        except ValueError as error:
            raise UserError(f"OutputNoise: {error}") from error

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        self._remove()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def recording(self) -> dict[str, Any]:
        return {}

    def summary(self) -> dict[str, float | None]:
        return {}
