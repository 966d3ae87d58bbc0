"""What the tests of models share: the order in which layers run, and norms that torch does not have."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

LETTERS = (
    (nn.Conv2d, "c"),
    (nn.Linear, "l"),
    ((nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU), "a"),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d), "p"),
    (nn.Dropout, "d"),
    (nn.Flatten, ""),
)


class ScaleOnly(nn.Module):
    """A norm with a weight and no bias."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, *[1] * (x.dim() - 2))


class NormWithReLU(nn.BatchNorm2d):
    """A norm that brings its activation."""

    includes_activation = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.fixture
def scale_only() -> type[nn.Module]:
    return ScaleOnly


@pytest.fixture
def norm_with_relu() -> type[nn.Module]:
    return NormWithReLU


def leaves_that_run(model: nn.Module, x: Tensor) -> list[nn.Module]:
    ran: list[nn.Module] = []
    leaves = [module for module in model.modules() if not list(module.children()) and type(module) is not nn.Sequential]
    handles = [leaf.register_forward_hook(lambda module, *_: ran.append(module)) for leaf in leaves]
    model(x)
    for handle in handles:
        handle.remove()
    return ran


@pytest.fixture
def spell() -> Callable[[nn.Module, Tensor], str]:
    """The layers of a model in the order they run: c conv, l linear, n norm, a activation, p pooling, d dropout."""

    def spell(model: nn.Module, x: Tensor) -> str:
        letters = []
        for leaf in leaves_that_run(model, x):
            known = [letter for kind, letter in LETTERS if isinstance(leaf, kind)]
            shortcut = type(leaf).__name__ == "PadShortcut"
            letters.append("" if shortcut else known[0] if known else "n")
        return "".join(letters)

    return spell


@pytest.fixture
def check_biases() -> Callable[[nn.Module, Tensor], None]:
    """Every convolution and dense layer has a bias, unless what runs next is a norm with one."""

    def check(model: nn.Module, x: Tensor) -> None:
        ran = leaves_that_run(model, x)
        for leaf, after in zip(ran, [*ran[1:], None], strict=True):
            if isinstance(leaf, (nn.Conv2d, nn.Linear)):
                is_norm = after is not None and not isinstance(after, tuple(kind for kind, _ in LETTERS[:2]))
                follows = is_norm and getattr(after, "bias", None) is not None
                assert (leaf.bias is None) == follows, f"{leaf} before {after}"

    return check
