"""Choose which of a model's parameters are trained; the others keep their initial values."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normzoo.errors import UserError
from normzoo.probes._layers import all_norms, weight_layers

CHOICES = {
    "all": "every parameter",
    "norms": "weights and biases of the norms",
    "last": "the last layer with a weight",
    "norms_and_last": "both of these",
    "sampled": "two random weights for each output channel of every layer but the last",
}
PER_CHANNEL = 2  # as many as a norm with a weight and a bias has for a channel


def choose_trained(model: nn.Module, choice: str) -> None:
    """Freeze, in place, what `optimizer.trains` leaves out; running statistics still move.

    Args:
        model: As initialized.
        choice: One of `CHOICES`.

    Raises:
        UserError: If nothing is left to train.

    Source: `norms` and `sampled` are compared by Frankle, Schwab & Morcos 2020, arXiv:2003.00152, sections 3 and 4.
    """
    if choice == "all":
        return
    layers = [module for module, _ in weight_layers(model).values()]
    norms = [parameter for _, norm in all_norms(model) for parameter in norm.parameters()]
    model.requires_grad_(False)
    if choice in ("norms", "norms_and_last"):
        for parameter in norms:
            parameter.requires_grad_(True)
    if choice in ("last", "norms_and_last") and layers:
        layers[-1].requires_grad_(True)
    if choice == "sampled":
        for layer in layers[:-1]:
            if isinstance(getattr(layer, "weight", None), nn.Parameter):
                _sample(layer)
    if not any(True for _ in trained(model)):
        has = "no norm with parameters" if choice == "norms" else "no such layer"
        raise UserError(
            f"optimizer.trains={choice} ({CHOICES[choice]}) leaves nothing to train: this model has {has}; choose a "
            "norm with affine=true, another placement, or optimizer.trains=all"
        )


def trained(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that are trained."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def counts(model: nn.Module, choice: str) -> dict[str, float]:
    """Count the trained parameters and all; return nothing for a model that is trained as a whole."""
    if choice == "all":
        return {}
    drawn = sum(module.frozen.numel() - module.index.numel() for module in model.modules() if isinstance(module, _Some))
    return {
        "trained_parameters": float(sum(parameter.numel() for parameter in trained(model))),
        "parameters": float(sum(parameter.numel() for parameter in model.parameters()) + drawn),
    }


class _Some(nn.Module):
    """A weight with a few trained entries in each output channel; the others are a buffer."""

    frozen: Tensor
    index: Tensor

    def __init__(self, weight: Tensor, per_channel: int) -> None:
        super().__init__()
        rows = weight.flatten(1)
        self.register_buffer("frozen", weight.detach().clone())
        self.register_buffer("index", torch.rand_like(rows).argsort(1)[:, :per_channel])

    def forward(self, values: Tensor) -> Tensor:
        return self.frozen.flatten(1).scatter(1, self.index, values).view_as(self.frozen)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().flatten(1).gather(1, self.index)


def _sample(layer: nn.Module) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", _Some(weight, PER_CHANNEL))
    layer.parametrizations.weight.original.requires_grad_(True)  # type: ignore[union-attr]
