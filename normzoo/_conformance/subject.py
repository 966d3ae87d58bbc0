"""The norm under test, what it is fed, and how results are compared."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.facts import NormInfo

POSITIONS: dict[int, tuple[int, ...]] = {2: (), 3: (5,), 4: (4, 3), 5: (2, 3, 2)}
EXACT = 1e-9
TOLERANCE = {torch.float64: EXACT, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Subject:
    """The norm under test: how it is built, what is said of it, and what it is fed."""

    build: Callable[..., nn.Module]
    info: NormInfo
    num_features: int = 8
    device: str = "cpu"
    reference: Callable[[Tensor, nn.Module], Any] | None = None

    def layer(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """A new layer in training mode with random parameters."""
        layer = self.build(self.num_features).to(self.device, dtype)
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
        return layer

    def modes(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
        """Two layers that have seen a batch, one in training and one in evaluation mode."""
        layer = self.layer(dtype)
        layer(self.x(seed=9).to(dtype))
        return layer, copy.deepcopy(layer).eval()

    @property
    def rank(self) -> int:
        return 4 if 4 in self.info.ranks else max(self.info.ranks)

    def shape(self, batch: int, positions: Sequence[int]) -> tuple[int, ...]:
        # A norm for tokens says where it takes the channels.
        dim = getattr(self.build(self.num_features), "channel_dim", 1)
        shape = [batch, *positions]
        shape.insert(dim if dim >= 0 else len(shape) + 1 + dim, self.num_features)
        return tuple(shape)

    def x(self, rank: int = 0, seed: int = 0, batch: int = 6, positions: Sequence[int] | None = None) -> Tensor:
        """A random input, float64, of mean 0.5 and standard deviation 2."""
        shape = self.shape(batch, POSITIONS[rank or self.rank] if positions is None else positions)
        generator = torch.Generator().manual_seed(100 + seed)
        return (2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5).to(self.device)


def run(layer: Callable[[Tensor], Tensor], x: Tensor, weights: Iterable[Tensor] = ()) -> tuple[Tensor, ...]:
    """Output, gradient of the input, gradients of the weights: of a random weighting, as a plain sum may have none."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    y = layer(x)
    generator = torch.Generator().manual_seed(5)
    # In the memory format of the output, as the gradient from a layer that follows would be.
    weighting = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator, dtype=torch.float64))
    # A parameter may have no part in one mode: that of a domain, or of a part of the batch, that is not there.
    grads = torch.autograd.grad((y * weighting).sum(), [x, *weights], allow_unused=True, materialize_grads=True)
    return y.detach(), *grads


def same(actual: Sequence[Tensor], expected: Sequence[Any], where: str, tolerance: float = 0.0) -> None:
    """Output, gradient of the input and gradients of parameters agree, up to `tolerance` and that part of the value."""
    parts = ("the output", "the gradient of the input") + ("the gradient of a parameter",) * len(actual)
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
