"""Find what is wrong with the norms of a model, for the way that it is trained."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from normzoo.registry import info
from normzoo.surgery import _doctor_batches as batches
from normzoo.surgery import _doctor_layers as layers
from normzoo.surgery._observation import Observation, Training, observe_training
from normzoo.surgery.batches import Forward, same_random_numbers, unwrap
from normzoo.surgery.findings import Finding, Findings
from normzoo.surgery.identify import find_norms
from normzoo.surgery.report import SurgeryError

CHECKS: tuple[Callable[[Observation], Iterator[Finding]], ...] = (
    *(batches.one_value, batches.few_values, batches.last_batch, batches.indivisible, batches.accumulation),
    *(batches.repeated, batches.skipped),
    *(layers.swallowed, layers.useless_bias, layers.double_activation, layers.dead, layers.orphans, layers.decayed),
    *(layers.half_precision, layers.not_updated, layers.checkpointed, layers.bypassed),
)


def doctor(
    model: nn.Module,
    sample: Any,
    *,
    batch_size_per_device: int,
    devices: int = 1,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    norm_layer: str | None = None,
    accumulate_grad_batches: int = 1,
    train_size: int | None = None,
    drop_last: bool = False,
    sync_batchnorm: bool = False,
    forward: Forward | None = None,
) -> Findings:
    """Find what is wrong with a model's norms: `print(doctor(model, x, batch_size_per_device=2, devices=8))`.

    The sample runs once in evaluation, and once forward and backward in training. What layers do decides, not their
    classes, so that norms of torch, timm, transformers and normzoo are checked alike. The model stays as it was: its
    state, gradients, modes and random numbers.

    Args:
        model: Any model.
        sample: Its input, of two samples or more; a tuple or dict of several, or a batch of a data loader.
        batch_size_per_device: Samples in a training batch of one process.
        devices: Processes that train together.
        optimizer: That of the training, or several.
        norm_layer: Name of the norm that the model was built with, by `norm_layer=`.
        accumulate_grad_batches: Batches to an optimizer step.
        train_size: Samples in the training set, which tells the size of the last batch.
        drop_last: Whether the last, short batch is dropped.
        sync_batchnorm: Whether `convert_sync_batchnorm`, or Lightning's `sync_batchnorm=True`, is to be applied.
        forward: How to call the model on the sample: `lambda model, batch: model(batch["image"])`.

    Returns:
        A row for each fault, with the layers that have it, its reason, its fix, and the function that does it.

    Raises:
        SurgeryError: If an argument is wrong, or the model cannot take the sample.
        UnknownNormError: If there is no norm called `norm_layer`.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"doctor takes a model, an nn.Module; got {type(model).__name__}")
    numbers = {
        "batch_size_per_device": batch_size_per_device,
        "devices": devices,
        "accumulate_grad_batches": accumulate_grad_batches,
        "train_size": train_size,
    }
    for name, number in numbers.items():
        if name == "train_size" and number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise SurgeryError(f"{name} must be a number of 1 or more; got {number!r}")
    optimizers = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    plan = Training(
        batch_size_per_device,
        devices,
        accumulate_grad_batches,
        train_size,
        drop_last,
        None if norm_layer is None else info(norm_layer).name,
        None if optimizers is None else tuple(optimizers),
    )
    model = unwrap(model)
    seen = observe_training(model, sample, plan, forward)
    with torch.no_grad(), same_random_numbers(model):
        found = [finding for check in CHECKS for finding in check(seen)]
    if sync_batchnorm:
        found += layers.erased(seen.norms)
    return Findings([*found, *_not_checked(seen, found)])


def erased_by_sync(model: nn.Module) -> Findings:
    """Find the norms that `convert_sync_batchnorm`, or Lightning's `sync_batchnorm=True`, would erase."""
    return Findings(layers.erased(find_norms(model)))


def _not_checked(seen: Observation, found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield what the model raised, if no check says so already."""
    names = {layer: name for name, layer, _ in seen.norms}
    if seen.failed is not None:
        layer, said = seen.failed
        if not any(names[layer] in finding.layers and finding.severity == "error" for finding in found):
            yield Finding("raises", "error", (names[layer],), said, "see the message", "normzoo.convert")
    elif seen.training_error is not None and not any(finding.severity == "error" for finding in found):
        reason = f"no training step on the sample: {seen.training_error}"
        fix = "pass a sample of two or more, or forward= for a model that takes targets"
        yield Finding("not_checked", "note", (), reason, fix, "normzoo.doctor")
