"""Federated learning with batch norms that stay at home: what a client sends, and what it takes in."""

from collections.abc import Mapping

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.norms.local_batch_norm import LocalBatchNorm

Layers = type[nn.Module] | tuple[type[nn.Module], ...]


class StateMismatchError(UserError, ValueError):
    """A state that does not hold just what is shared of a model."""


def local_keys(model: nn.Module, local: Layers = LocalBatchNorm) -> list[str]:
    """The keys of `model.state_dict()` that stay at home: parameters and buffers of the layers of the class `local`."""
    layers = [module for module in model.modules() if isinstance(module, local)]
    at_home = {id(value) for layer in layers for value in layer.state_dict(keep_vars=True).values()}
    # By identity, as a layer within another may be saved under the name of that one.
    return [key for key, value in model.state_dict(keep_vars=True).items() if id(value) in at_home]


def shared_state(model: nn.Module, local: Layers = LocalBatchNorm) -> dict[str, Tensor]:
    """What a client sends to the server: the model's state without that of its local batch norms.

    As those of `state_dict()`, the tensors are the model's own, not copies: what averages or keeps them makes new ones.

    Args:
        model: Of one client; all clients' models are built alike.
        local: The classes of the layers that stay at home. `torch.nn.BatchNorm2d` keeps every batch norm of a model
            there, as FedBN does, without building it of `local_batch_norm`.

    Returns:
        Tensors by their keys in `model.state_dict()`.

    Source: Li et al. 2021, arXiv:2102.07623, Algorithm 1.
    """
    at_home = set(local_keys(model, local))
    return {key: value for key, value in model.state_dict().items() if key not in at_home}


def load_shared_state(model: nn.Module, state: Mapping[str, Tensor], local: Layers = LocalBatchNorm) -> nn.Module:
    """What a client takes from the server: everything but its local batch norms, which are left as they are.

    Args:
        model: Changed in place.
        state: From `shared_state`, or an average of such of several clients.
        local: As for `shared_state`.

    Returns:
        The model.

    Raises:
        StateMismatchError: A ValueError, if `state` lacks what is shared, holds more or has it in other shapes;
            nothing is loaded then.

    Source: Li et al. 2021, arXiv:2102.07623, Algorithm 1.
    """
    at_home = set(local_keys(model, local))
    shared = {key: value.shape for key, value in model.state_dict().items() if key not in at_home}
    faults = {
        "stays at home": [key for key in state if key in at_home],
        "is not in the model": [key for key in state if key not in at_home and key not in shared],
        "is missing": [key for key in shared if key not in state],
        "has another shape": [key for key in state if key in shared and state[key].shape != shared[key]],
    }
    said = [f"{', '.join(map(repr, keys))} {fault}" for fault, keys in faults.items() if keys]
    if said:
        raise StateMismatchError(
            f"this is not the shared state of {type(model).__name__}: {'; '.join(said)}: "
            f"build it with shared_state of a model built alike, and with the same local layers"
        )
    model.load_state_dict(state, strict=False)
    return model
