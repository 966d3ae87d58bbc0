"""Build a norm and its reference layer for one input: one row of `normzoo bench layers`."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normzoo.bench.measure import Step
from normzoo.bench.references import BATCH_NORM, CONVOLUTION, NEEDED, REFERENCES, TOKENS, Reference
from normzoo.errors import UserError
from normzoo.norm_info import NormInfo
from normzoo.registry import info


@dataclass(frozen=True)
class Case:
    """A registered norm and the shape of its input; with `tokens`, the same values as `(N, L, C)`."""

    norm: str
    shape: tuple[int, ...]
    device: str = "cpu"
    tokens: bool = False

    @property
    def info(self) -> NormInfo:
        """The norm's registry entry."""
        return info(self.norm)

    @property
    def title(self) -> str:
        """The name in the table."""
        return f"{self.norm}, tokens" if self.tokens else self.norm

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the input, `(N, C, *)`, or `(N, L, C)` for tokens."""
        n, channels, *positions = self.shape
        return (n, math.prod(positions), channels) if self.tokens else self.shape

    @property
    def reference(self) -> Reference:
        """The layer to compare with."""
        if self.tokens:
            return TOKENS[self.norm]
        return CONVOLUTION if self.info.kind == "weight" else REFERENCES.get(self.norm, BATCH_NORM)

    def input(self) -> Tensor:
        """Return a random input that requires a gradient."""
        return torch.randn(self.input_shape, device=self.device).requires_grad_()

    def step(self, x: Tensor) -> Step:
        """Build the norm and return its step on `x`.

        Raises:
            UserError: If the norm has a required argument that is not in `NEEDED`.
        """
        norm, channels = self.info, self.shape[1]
        needed = {key: NEEDED.get(key) for key, default in norm.arguments.items() if default is inspect.Parameter.empty}
        if None in needed.values():
            raise UserError(f"cannot be built without {', '.join(needed)}")
        if norm.kind == "weight":
            return Step.of(norm.build(CONVOLUTION.build(channels), **needed).to(x.device), x)
        keywords = {"channel_dim": -1} if self.tokens else {}
        layer = norm.build(channels, **needed, **keywords).to(x.device)
        if norm.kind == "conditional":
            return Step.of(layer, x, layer.example_condition(x))  # type: ignore[operator]
        return Step.of(layer, x)

    def reference_step(self, x: Tensor) -> Step:
        """Build the reference layer and return its step on `x`."""
        return Step.of(self.reference.build(self.shape[1]).to(x.device), x)


def cases(norms: Sequence[str], shape: tuple[int, ...], device: str) -> list[Case]:
    """Return one case for each norm, and a second one for tokens where torch has a layer for them."""
    names = [info(name).name for name in norms]
    return [Case(name, shape, device, tokens) for name in names for tokens in (False, True)[: 1 + (name in TOKENS)]]
