"""Recompute the running statistics of a trained model as those of the population, over the training set."""

import contextlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from normzoo.surgery.batches import Forward, run_batch, same_random_numbers, unwrap
from normzoo.surgery.population import Population, collecting
from normzoo.surgery.report import SurgeryError
from normzoo.surgery.running import tracks


def layers_to_recalibrate(model: nn.Module, caller: str = "recalibrate") -> dict[str, nn.Module]:
    """Return the layers whose running statistics can be recomputed, by name; errors name the caller.

    Raises:
        SurgeryError: If there is none, or it cannot be seen what they get.
    """
    layers = {name: layer for name, layer in model.named_modules() if tracks(layer)}
    for name, layer in layers.items():
        if isinstance(layer, torch.jit.ScriptModule):
            raise SurgeryError(f"{caller}: layer {name!r} is scripted; call {caller} before torch.jit.script")
        if any(buffer.is_meta for buffer in layer.buffers()):
            raise SurgeryError(f"{caller}: layer {name!r} is on the meta device; load the model's weights first")
    if not layers:
        raise SurgeryError(
            f"{caller}: no layer of {type(model).__name__} has running statistics that training moves; frozen layers "
            f"keep theirs (unfreeze them first)"
        )
    return layers


def recalibrate(
    model: nn.Module, loader: Iterable[Any], *, batches: int | None = None, forward: Forward | None = None
) -> nn.Module:
    """Replace running statistics by those of the population: of all values that a layer gets over the loader.

        mean = Σ n_b mean_b / n;  var = Σ n_b (var_b + (mean_b − mean)²) / n,  summed over batches b, var unbiased

    This is the BatchNorm paper's Algorithm 2, called PreciseBN by Wu & Johnson, exact whatever the sizes and the means
    of the batches. Each norm normalizes by its batch's own statistics meanwhile, so that later layers get what they got
    in training: use the training batch size. Norms with other statistics, such as a whitening matrix or, as torch's
    instance norm, the mean over instances, get the average of those of the batches, weighted by their size.

    Weights, momentum, training flags, random numbers, the other layers and the number of batches, which schedules
    follow, stay as they are, and everything does if a batch raises. In several processes each takes batches of its own,
    and all get the statistics of all batches; all must call. Pass an averaged model (SWA, EMA) as any other.

    Args:
        model: Changed in place.
        loader: Batches: inputs, pairs (input, target), or mappings whose entries the model's forward has arguments for.
        batches: How many to take; None for all.
        forward: How to call the model on a batch, if not as above: `lambda model, batch: model(batch["image"])`.

    Returns:
        The model.

    Raises:
        SurgeryError: If no layer has running statistics, or the loader is empty.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2; Wu & Johnson 2021 (arXiv:2105.07576), section 3.
    """
    recompute(model, loader, batches, forward, "recalibrate")
    return model


def recompute(
    model: nn.Module, loader: Iterable[Any], batches: int | None, forward: Forward | None, caller: str
) -> None:
    """Do what `recalibrate` does; errors and warnings name the caller."""
    check_batches(batches, caller)
    inside = unwrap(model)
    layers = layers_to_recalibrate(inside, caller)
    seen = 0
    with torch.no_grad(), observed(inside, layers) as populations:
        for batch in itertools.islice(loader, batches):
            (forward or run_batch)(inside, batch)
            seen += 1
    finish(populations, layers)
    warn_if_short(batches, seen, caller)


def warn_if_short(batches: int | None, seen: int, caller: str) -> None:
    """Warn of a loader with fewer batches than were asked for."""
    if batches is not None and seen < batches:
        warnings.warn(f"{caller}: asked for {batches} batches, but the loader has only {seen}", stacklevel=4)


def check_batches(batches: Any, caller: str) -> None:
    """Refuse a number of batches that is not a positive integer or None."""
    if batches is not None and (isinstance(batches, bool) or not isinstance(batches, int) or batches < 1):
        raise SurgeryError(f"{caller}: batches={batches!r} must be a positive integer, or None for all")


@contextlib.contextmanager
def observed(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[list[Population]]:
    """Collect what these layers get while the rest of the model is in evaluation mode; put all modes back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        # Compiled code would call no hook.
        with torch.compiler.set_stance("force_eager"), same_random_numbers(model), collecting(layers.values()) as found:
            yield found
    finally:
        for module, training in flags:
            module.training = training


def finish(populations: list[Population], layers: Mapping[str, nn.Module]) -> None:
    """Give the layers the statistics that were collected, and warn of those that got none or no numbers.

    Raises:
        SurgeryError: If no layer got a batch.
    """
    got = dict(zip(layers, populations, strict=True))
    if not any(population.batches for population in populations):
        raise SurgeryError(
            "no batch came to any layer with running statistics: the loader is empty (an iterator can be used up), or "
            "the model does not call these layers"
        )
    for population in populations:
        population.finish()
    if missed := [name for name, population in got.items() if not population.batches]:
        warnings.warn(f"these layers were not called, and keep their statistics: {', '.join(missed)}", stacklevel=3)
    if broken := [name for name, population in got.items() if not population.is_finite()]:
        warnings.warn(f"the new statistics of these layers are not finite: {', '.join(broken)}", stacklevel=3)
