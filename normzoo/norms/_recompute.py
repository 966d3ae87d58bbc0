"""Forwards that activation checkpointing runs again in the backward: they read the state that the first run read."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from normzoo.norms._memory import is_transformed
from normzoo.norms._refuse import describe

FORWARDS = 16  # remembered of each layer: as many may wait for their backward


@dataclass(eq=False)
class _Forward:
    """A statistic by which a training batch is known again, and the buffers as its forward read them."""

    batch: Tensor
    found: tuple[Tensor, ...]
    used: bool = False


_tracker = ModuleTracker()
# Not on the layer, whose copies and pickles have nothing to recompute.
_forwards: WeakKeyDictionary[nn.Module, deque[_Forward]] = WeakKeyDictionary()


def is_recomputed() -> bool:
    """Tell whether this forward runs within a backward: it is not the first over its batch, and must move no state."""
    return not torch.compiler.is_compiling() and _tracker.is_bw


def is_in_graph() -> bool:
    """Tell whether this is compiled, to be run here, and not exported."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


@torch.library.custom_op("normzoo::state_of_first_run", mutates_args=())
def state_of_first_run(buffers: Sequence[Tensor], layer: str) -> list[Tensor]:
    """Copy buffers within a compiled graph, as one operation that the compiler can neither look into nor run again.

    Activation checkpointing can, around the graph or within it, when the state of the first run is gone.

    Raises:
        RuntimeError: In a backward, where the gradient would be silently wrong.
    """
    if _tracker.is_bw:
        raise RuntimeError(
            f"{layer} has state that its gradient depends on, and compiled it cannot be recomputed by activation "
            f"checkpointing: leave this layer out of what is checkpointed, or of what is compiled"
        )
    return [buffer.clone() for buffer in buffers]


@state_of_first_run.register_fake
def _(buffers: Sequence[Tensor], layer: str) -> list[Tensor]:
    return [torch.empty_like(buffer) for buffer in buffers]


@state_of_first_run.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], buffers: Sequence[Tensor], layer: str) -> tuple[list[Tensor], Any]:
    return state_of_first_run(buffers, layer), in_dims[0]


@torch.no_grad()
def state_before(layer: nn.Module, batch: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
    """Read buffers that a forward will move; in a recomputed forward, as they were in the first run.

    Args:
        layer: Whose forward it is.
        batch: A small statistic of the batch alone, by which a forward is known again.
        *buffers: What to read.

    Raises:
        RuntimeError: If a forward is recomputed that the layer does not remember.
    """
    if is_in_graph():
        return tuple(state_of_first_run(buffers, type(layer).__name__))
    if torch.compiler.is_compiling() or is_transformed(batch) or batch.is_meta:
        return buffers
    batch = batch.nan_to_num()  # a copy, in which a batch that is not finite is equal to itself
    if not is_recomputed():
        found = tuple(buffer.clone() for buffer in buffers)
        _forwards.setdefault(layer, deque(maxlen=FORWARDS)).append(_Forward(batch, found))
        return found
    # The newest first, and before those that have had their backward.
    known = [forward for forward in reversed(_forwards.get(layer, ())) if forward.batch.device == batch.device]
    known.sort(key=lambda forward: forward.used)
    if known:
        distances = (torch.stack([forward.batch for forward in known]) - batch).abs().flatten(1).amax(1).tolist()
        nearest = min(range(len(known)), key=distances.__getitem__)
        # Not of the same bits where a kernel before the layer adds in any order, as some on GPUs do.
        if distances[nearest] <= 1e-3 * batch.abs().max():
            forward = known[nearest]
            forward.used = True
            _forwards[layer].remove(forward)
            _forwards[layer].append(forward)
            return forward.found
    raise RuntimeError(
        f"{describe(layer)} has state that its gradient depends on, and is to recompute a forward over a batch that is "
        f"not among its last {FORWARDS}: run the backward sooner, keep preserve_rng_state=True, or leave this layer "
        f"out of what is checkpointed"
    )
