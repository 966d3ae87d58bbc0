"""Checks of the batches that norms get: how many values their statistics average, and of how many samples."""

import math
from collections.abc import Iterator

from normzoo.registry import info
from normzoo.surgery._observation import Observation
from normzoo.surgery.findings import Finding, Severity
from normzoo.surgery.running import moves
from normzoo.text import counted

EVIDENCE = {
    "batch_norm": {2: (57.7, 4.6), 4: (7.7, 0.5), 8: (6.3, 0.5), 16: (6.6, 0.3), 32: (6.1, 0.2), 64: (6.5, 0.4)},
    "group_norm": {2: (6.7, 0.4), 4: (7.1, 0.5), 8: (6.9, 0.6), 16: (7.1, 0.3), 32: (7.8, 0.4), 64: (8.3, 0.6)},
}
"""Validation error in % by the values in a statistic, mean and standard deviation: the figure of the README, whose
model ends in maps of 1×1, so that its last norms average as many values as there are samples."""
HURTS, COSTS = 4, 8  # values or samples in a statistic: below the first it fails, below the second it is a little worse
PAPER = "ResNet-50 on ImageNet: error 34.7 % with 2, 27.3 % with 4, 23.6 % with 32 (Wu & He 2018, arXiv:1803.08494)"
MADE_FOR_FEW = ("batch_renorm",)
SYNCHRONIZE = 'normzoo.convert(model, "sync_batch_norm")'
REPLACE = 'normzoo.convert(model, "group_norm")'


def one_value(seen: Observation) -> Iterator[Finding]:
    """Statistics of one value, whose variance is 0 and output the bias, or of fewer than a norm requires."""
    batch_norms = {layer for _, layer, _ in seen.batch_norms()}
    for name, layer, norm in seen.norms:
        n = seen.values(layer, norm)
        if n is None or (info(norm.equation).batch_dependent and layer not in batch_norms):
            continue
        least = max(2, getattr(layer, "minimum_count", 0))
        if n >= least:
            continue
        if n > 1:
            reason = f"a batch of {seen.plan.batch} leaves {n} values per channel, and it requires {least}"
            fix = f"use a larger batch, or {REPLACE}"
        elif layer in batch_norms:
            reason = f"a batch of {seen.plan.batch} leaves one value per channel: training raises, or gives the bias"
            fix = f"use a larger batch, or {REPLACE}"
        elif info(norm.equation).reduces_over == "*":
            reason = "it normalizes a map of 1×1 within each sample: it raises, or its output is the bias"
            fix = 'leave it out there, or normzoo.convert(model, "layer_norm")'
        else:
            reason = "each of its statistics is of one value: its output is the bias whatever the input"
            fix = 'use fewer groups: normzoo.convert(model, "layer_norm")'
        yield Finding("one_value", "error", (name,), reason, fix, "normzoo.convert")


def few_values(seen: Observation) -> Iterator[Finding]:
    """Statistics of few values, which are noise."""
    plan = seen.plan
    for name, layer, norm in seen.batch_norms():
        n = seen.values(layer, norm)
        if n is None or n < 2 or not _averages_the_batch(norm.equation):
            continue
        together = plan.batch * plan.devices
        local = norm.equation != "sync_batch_norm" and together > plan.batch
        samples = plan.batch if local else together
        if severity := _severity(n):
            reason = f"its statistics are of {n} values per channel; {evidence(n)}"
        elif severity := _severity(samples):
            reason = f"its statistics are of {counted(samples, 'sample')}; {PAPER}"
        else:
            continue
        local = local and together >= COSTS
        fix = f"{SYNCHRONIZE}, for {together} samples" if local else f"use a larger batch, or {REPLACE}"
        yield Finding("local_batch" if local else "few_values", severity, (name,), reason, fix, "normzoo.convert")


def last_batch(seen: Observation) -> Iterator[Finding]:
    """A short last batch, of which statistics are of fewer values than of the others."""
    plan = seen.plan
    left = math.ceil(plan.train_size / plan.devices) % plan.batch if plan.train_size and not plan.drop_last else 0
    for name, layer, norm in seen.batch_norms() if left else ():
        n, usual = seen.values(layer, norm, left), seen.values(layer, norm)
        if n is None or usual is None or n >= usual or usual < 2 or not _averages_the_batch(norm.equation):
            continue
        severity: Severity | None = "error" if n == 1 else _severity(n)
        if severity is not None:
            held = f"the last batch of an epoch holds {counted(left, 'sample')} on a device"
            reason = f"{held}: {n} values per channel, not {usual}"
            yield Finding("last_batch", severity, (name,), reason, "set drop_last=True", "torch.utils.data.DataLoader")


def indivisible(seen: Observation) -> Iterator[Finding]:
    """Groups of channels or of samples that do not come out even."""
    batch = seen.plan.batch
    for name, layer, norm in seen.norms:
        groups, channels = getattr(layer, "num_groups", None), norm.num_features or getattr(layer, "num_channels", 0)
        if isinstance(groups, int) and isinstance(channels, int) and groups > 0 and channels % groups:
            reason = f"{channels} channels do not divide into {groups} groups"
            fix = f'normzoo.convert(model, "group_norm", num_groups={groups}) takes the next number that does'
            yield Finding("indivisible", "error", (name,), reason, fix, "normzoo.convert")
        size, parts = getattr(layer, "group_size", None), getattr(layer, "num_splits", None)
        left = batch % size if isinstance(size, int) and size < batch else 0
        if not left and isinstance(parts, int) and parts > 1:
            left = batch % parts
        if left and layer in seen.trained:
            reason = (
                f"a batch of {batch} does not divide into its groups: the statistics of a part are of fewer samples"
            )
            fix = "choose a batch size, or groups, so that one divides the other"
            yield Finding("indivisible", "note", (name,), reason, fix, "normzoo.convert")


def accumulation(seen: Observation) -> Iterator[Finding]:
    """Gradient accumulation, which makes the step's batch larger, and not that of the statistics."""
    plan = seen.plan
    for name, _, norm in seen.batch_norms() if plan.accumulated > 1 else ():
        if _averages_the_batch(norm.equation):
            whole = plan.batch * plan.accumulated
            reason = f"gradients are accumulated over {whole} samples, its statistics are of {plan.batch} at a time"
            fix = 'use larger batches, or normzoo.convert(model, "cross_iteration_batch_norm"), or "group_norm"'
            yield Finding("accumulation", "note", (name,), reason, fix, "normzoo.convert")


def repeated(seen: Observation) -> Iterator[Finding]:
    """A layer with one set of running statistics that a forward calls several times, as in a recurrent cell."""
    for name, layer, _ in seen.norms:
        calls = max(len(seen.shapes.get(layer, ())), len(seen.training_shapes.get(layer, ())))
        if calls > 1 and moves(layer) and layer in seen.trained:
            reason = (
                f"it is called {calls} times in a forward, and its running statistics mix these inputs "
                f"(Cooijmans et al. 2016, arXiv:1603.09025)"
            )
            fix = 'build one layer for each call, or normzoo.convert(model, "layer_norm")'
            yield Finding("repeated", "warning", (name,), reason, fix, "normzoo.convert")


def skipped(seen: Observation) -> Iterator[Finding]:
    """A synchronized norm that not every process calls in every step: the others wait forever."""
    for name, layer, norm in seen.norms:
        if norm.equation != "sync_batch_norm" or seen.failed or seen.training_error:
            continue
        evaluated, trained = (len(shapes.get(layer, ())) for shapes in (seen.shapes, seen.training_shapes))
        if not evaluated or evaluated != trained:
            reason = (
                f"called {evaluated} times in evaluation and {trained} in training: a process that skips it hangs all"
            )
            fix = 'call it in every step on every process, or normzoo.convert(model, "batch_norm")'
            yield Finding("skipped", "error", (name,), reason, fix, "normzoo.convert")


def evidence(n: int) -> str:
    """Return what was measured at the largest number of values that is at most `n`."""
    measured = max((size for size in EVIDENCE["batch_norm"] if size <= n), default=min(EVIDENCE["batch_norm"]))
    told = [f"{norm} {mean} ± {deviation} %" for norm, by in EVIDENCE.items() for mean, deviation in [by[measured]]]
    return f"measured with {measured}: error of {told[0]}, {told[1]} (plain_cnn, MNIST-5k, 3 seeds: scripts/sweep.sh)"


def _severity(n: int) -> Severity | None:
    return "warning" if n < HURTS else "note" if n < COSTS else None


def _averages_the_batch(equation: str) -> bool:
    """Return whether a norm takes its statistics from the batch alone, without a mixture or a memory to help."""
    over = info(equation).reduces_over
    plain = over.startswith(("N, *", "N/k, *", "N of a domain")) and not any(word in over for word in (" and ", ";"))
    return plain and equation not in MADE_FOR_FEW
