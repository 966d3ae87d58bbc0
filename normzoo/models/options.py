"""Options shared by the plain models: activation by name, weight initialization, dropout."""

from collections.abc import Callable

import torch
from torch import nn

from normzoo.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": None,
}

INITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}


def named_activation(model: str, activation: str) -> Callable[[], nn.Module] | None:
    """Return the constructor of an activation; None for `none`.

    Raises:
        UserError: If the name is unknown.
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"{model}: activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def initialize(name: str, part: nn.Module, init: str, scale: float, own: str) -> None:
    """Draw the weights of all convolutions and dense layers of a module, in order, and set their biases to zero.

        weight = scale · draw,   draw ~ init

    `he_normal` is N(0, 2 / fan_in) (He et al. 2015, arXiv:1502.01852, section 2.2); `xavier_uniform` and
    `xavier_normal` have the variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, section 4.2.1); `default` is the
    model's own. Weights of norms do not change.

    Args:
        name: Name of the model, for the error message.
        part: The model, or a part of it.
        init: `default`, `he_normal`, `xavier_uniform` or `xavier_normal`.
        scale: Factor on every weight.
        own: The initialization that `default` stands for.

    Raises:
        UserError: If the init is unknown or the scale is not a positive number.
    """
    if init not in ("default", *INITS):
        raise UserError(f"{name}: init={init!r} is unknown; choose one of default, {', '.join(INITS)}")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise UserError(f"{name}: init_scale={scale!r} must be a positive number: 1 leaves the weights as drawn")
    draw = INITS[own if init == "default" else init]
    for layer in part.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            draw(layer.weight)
            if scale != 1:
                with torch.no_grad():
                    layer.weight.mul_(scale)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def dropout_layers(model: str, dropout: float) -> list[nn.Module]:
    """Return a list with one dropout layer; an empty list for 0.

    Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting.

    Raises:
        UserError: If the probability is not in [0, 1).
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UserError(f"{model}: dropout={dropout!r} must be in [0, 1)")
    return [nn.Dropout(dropout)] if dropout else []
