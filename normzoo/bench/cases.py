"""A norm and what it is compared with, built for an input: what `normzoo bench layers` has a row for."""

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
    """A norm, by its registered name, on an input of this shape, or on as much as tokens."""

    norm: str
    shape: tuple[int, ...]
    device: str = "cpu"
    tokens: bool = False

    @property
    def info(self) -> NormInfo:
        return info(self.norm)

    @property
    def title(self) -> str:
        return f"{self.norm}, tokens" if self.tokens else self.norm

    @property
    def input_shape(self) -> tuple[int, ...]:
        n, channels, *positions = self.shape
        return (n, math.prod(positions), channels) if self.tokens else self.shape

    @property
    def reference(self) -> Reference:
        if self.tokens:
            return TOKENS[self.norm]
        return CONVOLUTION if self.info.kind == "weight" else REFERENCES.get(self.norm, BATCH_NORM)

    def input(self) -> Tensor:
        return torch.randn(self.input_shape, device=self.device).requires_grad_()

    def step(self, x: Tensor) -> Step:
        """The norm on an input.

        Raises:
            UserError: If it cannot be built with what is known here.
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
        return Step.of(self.reference.build(self.shape[1]).to(x.device), x)


def cases(norms: Sequence[str], shape: tuple[int, ...], device: str) -> list[Case]:
    """Of each norm, and for tokens too where torch has a layer for them."""
    names = [info(name).name for name in norms]
    return [Case(name, shape, device, tokens) for name in names for tokens in (False, True)[: 1 + (name in TOKENS)]]
