"""Measure internal covariate shift: how updating the layers before a layer changes its gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.probes._batches import check_pair
from normzoo.probes._callback import StepProbe, inner_model, median, reduce_column
from normzoo.probes._gradients import (
    Batch,
    Loss,
    copy_with,
    difference,
    gradient_at,
    keep_rng_state,
    l2_norm,
    output_of,
    trainable,
)
from normzoo.probes._layers import weight_layers


@dataclass(frozen=True)
class CovariateShift:
    """The internal covariate shift of each layer with a weight.

    Attributes:
        layers: Their names, in the order in which the model calls them, (L,).
        distances: ‖G − G'‖₂, (L,); zero for the first layer.
        cosines: Cosine of the angle between G and G', (L,); nan if one of them is zero.
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
    """Measure the internal covariate shift caused by one update, layer by layer.

        G  = ∂L/∂W_i at (W_1, ..., W_k) of time t
        G' = ∂L/∂W_i at (W_1, ..., W_{i−1}) of time t + 1 and (W_i, ..., W_k) of time t, on the same batch
        shift of layer i = ‖G − G'‖₂

    W_i is the weight of the i-th layer with a weight that the model calls; biases and the parameters of norms move with
    the last such layer called before them. The model is measured in its current mode and left unchanged, state and RNG
    included; G and G' see the same dropout.

    Cost: for L layers, L + 1 forward passes, one of which finds the order of the layers, and L backward passes, each
    down to its layer; the memory of one more model.

    Args:
        model: At time t, including buffers; its own parameters do not matter.
        loss: `loss(output, target)`, a scalar.
        batch: Batch of the update, on the model's device.
        before: Trainable parameters at t, by name.
        after: Trainable parameters at t + 1, by name.
        across: Whether to average gradients over all processes of data-parallel training, all of which must call.

    Raises:
        ValueError: If `before` or `after` lacks a trainable parameter, or the model calls no layer with a weight.
        TypeError: If the batch is not a pair (input, target).

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, definition 2.1.
    """
    for name in trainable(model):
        if name not in before or name not in after:
            raise ValueError(f"before and after must contain every trainable parameter; {name} is missing")
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
        # The first layer has no layer before it: its shift is zero.
        g_moved = gradient_at(model, loss, batch, moved, of=names, across=across)[1] if i else g
        cosine = _inner_product(g, g_moved) / (l2_norm(g) * l2_norm(g_moved) or float("nan"))
        rows.append((l2_norm(difference(g, g_moved)), cosine, l2_norm(g)))
    return CovariateShift(tuple(layers), *torch.tensor(rows, dtype=torch.float64).unbind(1))


def _inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(torch.stack([(a[name].double() * b[name].double()).sum() for name in a]).sum())


def _order(model: nn.Module, inputs: Any) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the layers with weights in the order of their first call, and each parameter's layer by its index."""
    twin = copy_with(model, {})
    called: list[str] = []
    for path, module in twin.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path: called.append(path))
    with keep_rng_state(model), torch.no_grad():
        output_of(twin, inputs)

    own = {module: (name, names) for name, (module, names) in weight_layers(twin).items()}
    layers: dict[str, list[str]] = {}
    place: dict[str, int] = {}
    for path in dict.fromkeys(called):
        module = twin.get_submodule(path)
        if module in own:
            name, names = own[module]
            layers[name] = names
        for name, _ in module.named_parameters(recurse=False):
            place[f"{path}.{name}" if path else name] = max(len(layers) - 1, 0)
    return layers, place


class CovariateShiftProbe(StepProbe):
    """Measure `covariate_shift` of the optimizer's update at every `every`-th training step.

    In data-parallel training the gradients are those of the global batch; with accumulation a step is measured on its
    first batch.

    Cost: for L layers with weights, L + 1 forward and L backward passes per measurement; the memory of two more models.

    Recording: `shift_step`; per row and layer `shift_distances`, `shift_cosines`, `shift_gradient_norms`;
    `shift_layers`.
    Summary: medians over rows of the mean over all layers but the first, of the distance, the distance relative to the
    gradient norm, and the cosine.

    Args:
        every: Optimizer steps between measurements.
        loss: `loss(output, target)`.
    """

    prefix = "shift"

    def __init__(self, every: int = 10, loss: Loss = F.cross_entropy) -> None:
        super().__init__(every)
        self.loss = loss
        self._pending: tuple[int, nn.Module, Any] | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Keep a copy of the model before a measured step."""
        if self.due(trainer, batch_idx):
            model = inner_model(module)
            self._pending = (trainer.global_step, copy_with(model, trainable(model)), batch)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure after the optimizer has stepped."""
        if self._pending is None or trainer.global_step == self._pending[0]:
            return
        (step, model, measured), self._pending = self._pending, None
        with trainer.precision_plugin.forward_context():
            after = {name: value.detach() for name, value in trainable(inner_model(module)).items()}
            found = covariate_shift(model, self.loss, measured, trainable(model), after, across=trainer.world_size > 1)
        row = dict(vars(found))
        self.names = {"layers": list(row.pop("layers"))}
        self.keep(step, row)

    def summary(self) -> dict[str, float | None]:
        """Return the medians; see the class."""
        columns = [self.column(name) for name in ("distances", "cosines", "gradient_norms")]
        distances, cosines, norms = (column[:, 1:] if self.rows else column for column in columns)
        means = {"": distances, "_relative": distances / norms, "_cosine": cosines}
        return {
            f"covariate_shift{name}": reduce_column(median, values.mean(1) if values.numel() else values)
            for name, values in means.items()
        }
