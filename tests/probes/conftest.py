"""A small model with any norm, and what must be the same before and after a measurement."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

import normzoo


def small_net(norm: str, **arguments: Any) -> nn.Module:
    """Two convolutions with the norm, dropout, and a dense layer."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        normzoo.create(norm, 8, **arguments),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        normzoo.create(norm, 8, **arguments),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * 16, 3),
    )


def small_batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 2, 4, 4), torch.arange(size) % 3


def trained_steps(model: nn.Module, batch: tuple[Tensor, Tensor], steps: int = 2) -> list[Tensor]:
    """The model after some steps of SGD, and what is left of the random numbers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    return [*model.state_dict().values(), torch.rand(3)]


@pytest.fixture
def leaves_no_trace() -> Callable[..., None]:
    """Checks that a measurement of a model with this norm is followed by the training that would follow without it."""

    def check(
        measure: Callable[[nn.Module, Any], Any], norm: str, memory_format: Any = torch.contiguous_format
    ) -> None:
        outcomes = []
        for measured in (False, True):
            torch.manual_seed(0)
            model = small_net(norm).to(memory_format=memory_format)
            x, y = small_batch()
            batch = x.to(memory_format=memory_format), y
            F.cross_entropy(model(x), y).backward()  # a norm that remembers has something to remember
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            modes = [module.training for module in model.modules()]
            hooks = hook_count(model)
            if measured:
                measure(model, batch)
            assert [module.training for module in model.modules()] == modes
            assert hook_count(model) == hooks
            kept = [p.grad for p in model.parameters() if p.grad is not None]
            assert len(kept) == len(grads)
            assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))
            outcomes.append(trained_steps(model, batch))
        assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))

    return check


def hook_count(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    """The configuration, plain, of a cell of less than a second with these overrides."""
    tiny = ["data=synthetic", "data.train_size=96", "data.val_size=40", "data.image_size=8", "trainer=cpu"]

    def composed(*overrides: str) -> dict[str, Any]:
        with initialize_config_module("normzoo.conf", version_base="1.3"):
            cell = compose("train", [*tiny, "trainer.max_epochs=2", "batch_size_per_device=8", *overrides])
            return OmegaConf.to_container(cell, resolve=True)  # type: ignore[return-value]

    return composed
