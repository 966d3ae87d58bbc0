"""Orders of training samples that are not independent: batches of few classes."""

import torch
from torch import Tensor


def by_class(labels: Tensor, classes_per_batch: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return an order of all samples in which each batch has at most `classes_per_batch` classes.

    The classes are grouped at random, the samples of a group are batched at random, and the batches are shuffled. The
    leftovers of each group, less than a batch, come last, group by group, so that the last few batches may mix groups.

    Shape: labels (n) -> indices (n)

    Args:
        labels: Label of each sample.
        classes_per_batch: Maximum number of classes in a batch.
        batch: Samples per batch, over all processes.
        generator: Source of random numbers.

    Source: non-i.i.d. batches, as in Ioffe 2017, Batch renormalization, arXiv:1702.03275, section 4.3.
    """
    classes = labels.unique()
    classes = classes[torch.randperm(len(classes), generator=generator)]
    full: list[Tensor] = []
    left: list[Tensor] = []
    for group in classes.split(classes_per_batch):
        samples = torch.isin(labels, group).nonzero().squeeze(1)
        samples = samples[torch.randperm(len(samples), generator=generator)]
        whole = len(samples) // batch * batch
        full += samples[:whole].split(batch) if whole else ()
        left.append(samples[whole:])
    turns = torch.randperm(len(full), generator=generator).tolist()
    return torch.cat([*(full[turn] for turn in turns), *left])
