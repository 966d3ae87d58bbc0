"""A forward that activation checkpointing runs again in the backward: it finds the state that the first run found."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from normzoo.norms._refuse import describe
from normzoo.norms._reuse import is_transformed

FORWARDS = 16  # of a layer that are remembered, as many as may wait for their backward


@dataclass(eq=False)
class _Forward:
    """What a training batch was known by, and the buffers as it found them."""

    batch: Tensor
    found: tuple[Tensor, ...]
    used: bool = False


_tracker = ModuleTracker()
# Not on the layer, whose copies and pickles have nothing to recompute.
_forwards: WeakKeyDictionary[nn.Module, deque[_Forward]] = WeakKeyDictionary()


def is_recomputed() -> bool:
    """Whether this forward runs within a backward, so that it is not the first over its batch and moves no state."""
    return not torch.compiler.is_compiling() and _tracker.is_bw


def is_in_graph() -> bool:
    """Whether this is compiled, to be run here, and not exported."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


@torch.library.custom_op("normzoo::state_of_first_run", mutates_args=())
def state_of_first_run(buffers: Sequence[Tensor], layer: str) -> list[Tensor]:
    """Copies of buffers, within a compiled graph: an operation there, that the compiler cannot look into or run again.

    But activation checkpointing has it run again, around the graph or within it. The state of the first run is gone
    then, and what was computed of it would be wrong without a word.

    Raises:
        RuntimeError: In a backward.
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
    """The values of buffers that a forward reads before it moves them; in a recomputed one, those of the first run.

    Args:
        batch: A small statistic of the batch alone, by which a forward is known again.

    Raises:
        RuntimeError: If a forward is recomputed of which the layer knows nothing.
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
    known = list(reversed(_forwards.get(layer, ())))
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
