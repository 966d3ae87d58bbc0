"""The norm under test, what it is fed, and how results are compared."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from normzoo.norm_info import NormInfo

Given = tuple[Tensor, ...]
"""What a layer is called with: the input, and where it is conditional the condition."""

POSITIONS: dict[int, tuple[int, ...]] = {2: (), 3: (5,), 4: (4, 3), 5: (2, 3, 2)}
EXACT = 1e-9
CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
TOLERANCE = {torch.float64: EXACT, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Subject:
    """The norm under test: how it is built, what is said of it, and what it is fed."""

    build: Callable[..., nn.Module]
    info: NormInfo
    num_features: int = 8
    device: str = "cpu"
    reference: Callable[..., Any] | None = None

    def new(self, rank: int = 0) -> nn.Module:
        """A layer as it is built; for a norm of weights, a linear or convolutional one that has it."""
        if self.info.kind != "weight":
            return self.build(self.num_features)
        return self.build(self.bare(rank or self.rank))

    def bare(self, rank: int) -> nn.Module:
        """What a norm of weights is put on: as many channels and positions come out as go in."""
        channels = self.num_features
        return nn.Linear(channels, channels) if rank == 2 else CONVOLUTIONS[rank](channels, channels, 3, padding=1)

    def layer(self, dtype: torch.dtype = torch.float64, seed: int = 0, rank: int = 0) -> nn.Module:
        """A new layer in training mode with random parameters."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # for buffers that are drawn at random
            layer = self.new(rank).to(self.device, dtype)
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
        return layer

    def modes(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
        """Two layers that have seen a batch, one in training and one in evaluation mode."""
        layer = self.layer(dtype)
        # The power iteration of a spectral norm takes a few steps to where its gradient is exact.
        for _ in range(30 if self.info.kind == "weight" and self.info.state else 1):
            layer(*cast(self.given(seed=9), dtype))
        return layer, copy.deepcopy(layer).eval()

    @property
    def rank(self) -> int:
        return 4 if 4 in self.info.ranks else max(self.info.ranks)

    def shape(self, batch: int, positions: Sequence[int]) -> tuple[int, ...]:
        # A norm for tokens says where it takes the channels.
        dim = getattr(self.new(), "channel_dim", 1)
        shape = [batch, *positions]
        shape.insert(dim if dim >= 0 else len(shape) + 1 + dim, self.num_features)
        return tuple(shape)

    def x(self, rank: int = 0, seed: int = 0, batch: int = 6, positions: Sequence[int] | None = None) -> Tensor:
        """A random input, float64, of mean 0.5 and standard deviation 2."""
        shape = self.shape(batch, POSITIONS[rank or self.rank] if positions is None else positions)
        generator = torch.Generator().manual_seed(100 + seed)
        return (2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5).to(self.device)

    def given(self, rank: int = 0, seed: int = 0, batch: int = 6, positions: Sequence[int] | None = None) -> Given:
        """A random input, and a random condition where the norm takes one."""
        return self.with_condition(self.x(rank, seed, batch, positions), seed)

    def with_condition(self, x: Tensor, seed: int = 0) -> Given:
        if self.info.kind != "conditional":
            return (x,)
        with torch.random.fork_rng():
            torch.manual_seed(200 + seed)
            layer = self.new().to(self.device)
            lacks = 'a norm of kind "conditional" needs a method example_condition(x), which is missing'
            assert hasattr(layer, "example_condition"), lacks
            condition = layer.example_condition(x)  # type: ignore[operator]
        return (x, *cast((condition,), x.dtype))

    def skip_weights(self) -> None:
        """For a check of what a norm does to its input: a norm of weights never sees one."""
        if self.info.kind == "weight":
            raise SkipTest("is of weights: this is up to the module that has them")


def cast(given: Given, to: torch.dtype | str) -> Given:
    """To a data type, whole numbers aside, or to a device."""
    return tuple(t.to(to) if isinstance(to, str) or t.is_floating_point() else t for t in given)


def weight_of(module: nn.Module) -> Tensor:
    """Of a parametrized module: computed at each call."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def part(given: Given, samples: slice | Tensor) -> Given:
    return tuple(tensor[samples] for tensor in given)


def run(layer: Callable[..., Tensor], given: Sequence[Tensor], weights: Iterable[Tensor] = ()) -> tuple[Tensor, ...]:
    """Output and gradients of input, condition and weights: of a random weighting, as a plain sum may have none."""
    given = [t if t.requires_grad or not t.is_floating_point() else t.detach().requires_grad_() for t in given]
    y = layer(*given)
    generator = torch.Generator().manual_seed(5)
    # In the memory format of the output, as the gradient from a layer that follows would be, and of few digits, so
    # that every data type holds the same.
    weighting = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator, dtype=torch.float64).bfloat16())
    leaves = [tensor for tensor in given if tensor.requires_grad]
    # A parameter may have no part in one mode: that of a domain, or of a part of the batch, that is not there.
    grads = torch.autograd.grad((y * weighting).sum(), [*leaves, *weights], allow_unused=True, materialize_grads=True)
    return y.detach(), *grads


def same(actual: Sequence[Tensor], expected: Sequence[Any], where: str, tolerance: float = 0.0) -> None:
    """Output, gradient of the input and other gradients agree, up to `tolerance` and that part of the value."""
    parts = ("the output", "the gradient of the input") + ("the gradient of condition or parameter",) * len(actual)
    same_named(dict(enumerate(actual)), dict(enumerate(expected)), where, tolerance, dict(enumerate(parts)))


def same_named(
    actual: Mapping[Any, Tensor],
    expected: Mapping[Any, Any],
    where: str,
    tolerance: float = 0.0,
    titles: Mapping[Any, str] | None = None,
) -> None:
    for key, tensor in actual.items():
        try:
            wanted = torch.as_tensor(expected[key]).to(tensor)
            torch.testing.assert_close(tensor, wanted, rtol=tolerance, atol=tolerance)
        except AssertionError as error:
            raise AssertionError(
                f"{where}: {(titles or {}).get(key, key)} differs: {' '.join(str(error).split())}"
            ) from None


def state_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}
