"""Adapt the norms of a trained model to shifted data, without labels."""

import itertools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normzoo.surgery.batches import Forward, run_batch, unwrap
from normzoo.surgery.recalibrate import (
    check_batches,
    finish,
    layers_to_recalibrate,
    observed,
    recompute,
    warn_if_short,
)
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import running_statistics

Method = Literal["adabn", "blend", "tent"]


def adapt(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    method: Method = "adabn",
    alpha: float = 0.5,
    lr: float = 1e-3,
    batches: int | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """Adapt the norms with running statistics to the data of a loader, whose targets are not used.

        adabn   running statistics of the new data, as `recalibrate` takes them
        blend   alpha · those of before + (1 − alpha) · those of the new data
        tent    as adabn, and one step of Adam on weight and bias for each batch, towards a low entropy of the
                predictions: −Σ p log p, p the softmax of the logits

    All take the statistics of the new data from batches, and need enough of them: with few samples, or of few classes,
    the model can become worse than it was. `tent` moves the weights in the order of the batches.

    Args:
        model: A classifier, for `tent` one that returns logits with the classes at dimension 1; changed in place.
        loader: Batches, as for `recalibrate`.
        method: One of the above.
        alpha: Weight of the statistics of before, from 0 to 1, for `blend`; of N samples before and n new ones
            Schneider et al. take N / (N + n), with N about 16 to 256 chosen for the shift.
        lr: Learning rate, for `tent`.
        batches: How many batches to take; None for all.
        forward: How to call the model on a batch: `lambda model, batch: model(batch["image"])`.

    Returns:
        The model. All but the norms is as it was, and everything is if a batch raises.

    Raises:
        SurgeryError: If the model has no running statistics, the loader is empty, a number is out of its range, or for
            `tent` the norms have no weights or the model returns no logits.

    Source: AdaBN: Li et al. 2016, arXiv:1603.04779. Blend: Schneider et al. 2020, arXiv:2006.16971; You, Li & Zhao
    2021, arXiv:2110.04065. TENT: Wang et al. 2021, arXiv:2006.10726.
    """
    if method not in ("adabn", "blend", "tent"):
        raise SurgeryError(f"adapt: unknown method {method!r}; choose from adabn, blend, tent")
    if not 0 <= alpha <= 1 or not lr > 0:
        raise SurgeryError(f"adapt: alpha is between 0 and 1 and lr is positive; got alpha={alpha}, lr={lr}")
    check_batches(batches, "adapt")
    if method == "tent":
        _minimize_entropy(unwrap(model), loader, lr, batches, forward)
        return model
    layers = layers_to_recalibrate(unwrap(model), "adapt").values()
    old = [(layer, name, layer.get_buffer(name).clone()) for layer in layers for name in running_statistics(layer)]
    recompute(model, loader, batches, forward, "adapt")
    for layer, name, before in old if method == "blend" else ():
        layer.get_buffer(name).data.lerp_(before, alpha)
    return model


def _minimize_entropy(
    model: nn.Module, loader: Iterable[Any], lr: float, batches: int | None, forward: Forward | None
) -> None:
    layers = layers_to_recalibrate(model, "adapt")
    affine = list(dict.fromkeys(p for layer in layers.values() for p in layer.parameters(recurse=False)))
    if not affine:
        raise SurgeryError("adapt: tent trains weights and biases of norms, and these have none; use method='adabn'")
    trainable = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    before = [p.detach().clone() for p in affine]
    try:
        for parameter, _, _ in trainable:
            parameter.requires_grad_(False)
        for parameter in affine:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(affine, lr)
        with torch.enable_grad(), observed(model, layers) as populations:
            for seen, batch in enumerate(itertools.islice(loader, batches), 1):  # noqa: B007
                loss = _entropy((forward or run_batch)(model, batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finish(populations, layers)
    except BaseException:
        for parameter, value in zip(affine, before, strict=True):
            parameter.data.copy_(value)
        raise
    finally:
        for parameter, required, gradient in trainable:
            parameter.requires_grad_(required)
            parameter.grad = gradient
    warn_if_short(batches, seen, "adapt")


def _entropy(logits: Any) -> Tensor:
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise SurgeryError(
            f"adapt: tent needs logits, a tensor with the classes at dimension 1; the model returned a "
            f"{type(logits).__name__}: pass forward=lambda model, batch: ..."
        )
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
