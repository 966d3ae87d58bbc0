"""Feed a model the batches of a data loader: what of a batch is the input, and where it has to be."""

import contextlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Forward = Callable[[nn.Module, Any], Any]


def run_batch(model: nn.Module, batch: Any) -> Any:
    """Call a model on a batch of a data loader, on the device of the model.

    A tensor is the input; of a pair (input, target), or of more entries than the model takes, the first is. Of a
    mapping the model gets the entries that its forward has arguments for, or the mapping itself if there are none.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    x = to_device(input_of(model, batch), device)
    try:
        if isinstance(x, Mapping):
            accepted = _accepted(model, x)
            return model(**accepted) if accepted else model(x)
        if isinstance(x, (tuple, list)) and x:
            _, most = _inputs(model)
            return model(*x) if 1 < len(x) <= most else model(x[0])
        return model(x)
    except Exception as error:
        error.add_note(
            f"raised by {type(model).__name__} on a batch of the loader, a {type(batch).__name__}; if another part "
            f'of it is the input, pass for example forward=lambda model, batch: model(batch["image"])'
        )
        raise


def input_of(model: nn.Module, batch: Any) -> Any:
    """Return the input of a batch: the first of a pair (input, target), else the batch itself.

    In ((x1, x2), y) the second is always a target. In (x, y) it is one if the model takes a single input; if the model
    has an optional second input, y is a target if it holds labels (one integer per sample).
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        return batch
    x, y = batch
    needed, most = _inputs(model)
    if isinstance(x, (tuple, list)):
        return tuple(x) if most > 1 else x  # a data loader turns tuples into lists
    return x if most < 2 or (needed < 2 and _is_labels(y)) else batch


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model within wrappers, of compilation, data parallelism and averaging, that accept any arguments."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch, within tuples, lists and mappings too."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)  # a named tuple has fields
    return batch


@contextlib.contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """Put the generators of random numbers back: torch's, on the CPU and on the model's GPUs, Python's and NumPy's."""
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    python, numpy = random.getstate(), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(drawn)


def _is_labels(y: Tensor) -> bool:
    return y.dim() <= 1 and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(unwrap(model).forward).parameters.values())


def _inputs(model: nn.Module) -> tuple[int, float]:
    """Return the number of required inputs of the model, and the maximum."""
    parameters = _parameters(model)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    further = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(place.default is place.empty for place in places), float("inf") if further else len(places)


def _accepted(model: nn.Module, batch: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the entries that the model's forward has arguments for."""
    parameters = _parameters(model)
    if any(p.kind is p.VAR_KEYWORD for p in parameters) and all(isinstance(key, str) for key in batch):
        return dict(batch)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in batch.items() if key in names}
