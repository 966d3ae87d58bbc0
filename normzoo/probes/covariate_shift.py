"""Internal covariate shift: how an update of the layers before a layer changes its gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.probes._batches import check_pair
from normzoo.probes._callback import StepProbe, inner, median, over_rows
from normzoo.probes._layers import weight_layers
from normzoo.probes._point import (
    Batch,
    Loss,
    at,
    difference,
    gradient_at,
    length,
    output_of,
    same_random_numbers,
    trainable,
)


@dataclass(frozen=True)
class CovariateShift:
    """The internal covariate shift of each layer with a weight.

    Attributes:
        layers: Their names, in the order in which the model calls them, (L,).
        distances: ‖G − G'‖₂, (L,); zero for the first, which has no layer before it.
        cosines: Of the angle between G and G', (L,); nan where one of them is zero.
        gradient_norms: ‖G‖₂, (L,).
    """

    layers: tuple[str, ...]
    distances: Tensor
    cosines: Tensor
    gradient_norms: Tensor


def covariate_shift(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    across: bool = False,
) -> CovariateShift:
    """The internal covariate shift that one update causes, layer by layer.

        G  = ∂L/∂W_i at (W_1, ..., W_k) of time t
        G' = ∂L/∂W_i at (W_1, ..., W_{i−1}) of time t + 1 and (W_i, ..., W_k) of time t, on the same batch
        shift of layer i = ‖G − G'‖₂

    W_i is the weight of the i-th convolution, dense or other layer with a weight that the model calls; a bias, and the
    parameters of a norm, move with the last such layer called before them. The model is measured in the mode it is in
    and left as it is, state and random numbers included; G and G' see the same dropout.

    Cost: L + 1 forward passes, one of them to see the order of the layers, and L backward passes, each down to its
    layer, for L layers; and the memory of one more model.

    Args:
        model: At time t, buffers included; its own parameters do not matter.
        loss: `loss(output, target)`, a scalar.
        batch: The batch of the update, on the model's device.
        before, after: The trainable parameters at t and at t + 1, by name.
        across: In data-parallel training, average the gradients over all processes, which all must call.

    Raises:
        ValueError: If a trainable parameter is missing from `before` or `after`, or no layer with a weight is called.
        TypeError: If the batch is no pair of input and target.

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, definition 2.1.
    """
    for name in trainable(model):
        if name not in before or name not in after:
            raise ValueError(f"before and after need every trainable parameter of the model; {name} is missing")
    check_pair(batch)
    layers, place = _order(model, batch[0])
    if not layers:
        raise ValueError("this model calls no layer with a trainable weight")
    rows = []
    everything = [name for names in layers.values() for name in names]
    _, here = gradient_at(model, loss, batch, before, of=everything, across=across)
    for i, names in enumerate(layers.values()):
        g = {name: here[name] for name in names}
        moved = {name: after[name] if place.get(name, i) < i else value for name, value in before.items()}
        # No layer stands before the first: its shift is zero without a measurement.
        g_moved = gradient_at(model, loss, batch, moved, of=names, across=across)[1] if i else g
        cosine = _inner_product(g, g_moved) / (length(g) * length(g_moved) or float("nan"))
        rows.append((length(difference(g, g_moved)), cosine, length(g)))
    return CovariateShift(tuple(layers), *torch.tensor(rows, dtype=torch.float64).unbind(1))


def _inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(torch.stack([(a[name].double() * b[name].double()).sum() for name in a]).sum())


def _order(model: nn.Module, inputs: Any) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The layers with weights in the order of their first call, and the number of the one each parameter goes with."""
    point = at(model, {})
    called: list[str] = []
    for path, module in point.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path: called.append(path))
    with same_random_numbers(model), torch.no_grad():
        output_of(point, inputs)

    own = {module: (name, names) for name, (module, names) in weight_layers(point).items()}
    layers: dict[str, list[str]] = {}
    place: dict[str, int] = {}
    for path in dict.fromkeys(called):
        module = point.get_submodule(path)
        if module in own:
            name, names = own[module]
            layers[name] = names
        for name, _ in module.named_parameters(recurse=False):
            place[f"{path}.{name}" if path else name] = max(len(layers) - 1, 0)
    return layers, place


class CovariateShiftProbe(StepProbe):
    """`covariate_shift` of every `every`-th step of the training, by the update that the optimizer made.

    In data-parallel training the gradients are those of the global batch; a step that accumulates several batches is
    measured on its first.

    Cost: L + 1 forward and L backward passes a measurement, for L layers with weights, and the memory of two more
    models.

    Recording: `shift_step`, by row and layer `shift_distances`, `shift_cosines`, `shift_gradient_norms`, and
    `shift_layers`, their names. Summary: the medians over rows of the mean over layers, the first left out, of the
    distance, of the distance relative to the gradient's length, and of the cosine.

    Args:
        every: Optimizer steps from one measurement to the next.
        loss: `loss(output, target)`.
    """

    prefix = "shift"

    def __init__(self, every: int = 10, loss: Loss = F.cross_entropy) -> None:
        super().__init__(every)
        self.loss = loss
        self.layers: tuple[str, ...] = ()
        self._pending: tuple[int, nn.Module, Any] | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.due(trainer, batch_idx):
            model = inner(module)
            self._pending = (trainer.global_step, at(model, trainable(model)), batch)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._pending is None or trainer.global_step == self._pending[0]:
            return
        (step, model, measured), self._pending = self._pending, None
        with trainer.precision_plugin.forward_context():
            after = {name: value.detach() for name, value in trainable(inner(module)).items()}
            found = covariate_shift(model, self.loss, measured, trainable(model), after, across=trainer.world_size > 1)
        self.layers = found.layers
        self.keep(
            step,
            {"distances": found.distances, "cosines": found.cosines, "gradient_norms": found.gradient_norms},
        )

    def recording(self) -> dict[str, Any]:
        return {**super().recording(), "shift_layers": list(self.layers)}

    def summary(self) -> dict[str, float | None]:
        columns = [self.column(name) for name in ("distances", "cosines", "gradient_norms")]
        distances, cosines, norms = (column[:, 1:] if self.rows else column for column in columns)
        means = {"": distances, "_relative": distances / norms, "_cosine": cosines}
        return {
            f"covariate_shift{name}": over_rows(median, values.mean(1) if values.numel() else values)
            for name, values in means.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "layers": list(self.layers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.layers = tuple(state_dict["layers"])
