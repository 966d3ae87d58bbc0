"""Federated learning with local batch norms: what a client sends to the server, and what it loads from it."""

from collections.abc import Mapping

from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.norms.local_batch_norm import LocalBatchNorm

Layers = type[nn.Module] | tuple[type[nn.Module], ...]


class StateMismatchError(UserError, ValueError):
    """A state does not match the shared state of the model."""


def local_keys(model: nn.Module, local: Layers = LocalBatchNorm) -> list[str]:
    """Return the keys of `model.state_dict()` that belong to layers of class `local`, which stay on the client."""
    layers = [module for module in model.modules() if isinstance(module, local)]
    local_ids = {id(value) for layer in layers for value in layer.state_dict(keep_vars=True).values()}
    # Compare identities, because a nested layer may be saved under the name of the outer one.
    return [key for key, value in model.state_dict(keep_vars=True).items() if id(value) in local_ids]


def shared_state(model: nn.Module, local: Layers = LocalBatchNorm) -> dict[str, Tensor]:
    """Return what a client sends to the server: the model's state without its local batch norms.

    As in `state_dict()`, the tensors are the model's own, not copies.

    Args:
        model: Model of one client; the models of all clients are built alike.
        local: Classes of the layers that stay on the client. `torch.nn.BatchNorm2d` gives FedBN for a model that was
            not built with `local_batch_norm`.

    Returns:
        Tensors by their keys in `model.state_dict()`.

    Source: Li et al. 2021, arXiv:2102.07623, Algorithm 1.
    """
    local_names = set(local_keys(model, local))
    return {key: value for key, value in model.state_dict().items() if key not in local_names}


def load_shared_state(model: nn.Module, state: Mapping[str, Tensor], local: Layers = LocalBatchNorm) -> nn.Module:
    """Load the state from the server, except for the local batch norms, which stay as they are.

    Args:
        model: Changed in place.
        state: From `shared_state`, or an average of several clients' states.
        local: As for `shared_state`.

    Returns:
        The model.

    Raises:
        StateMismatchError: If `state` has missing, unexpected or wrongly shaped entries; nothing is loaded then.

    Source: Li et al. 2021, arXiv:2102.07623, Algorithm 1.
    """
    local_names = set(local_keys(model, local))
    shared = {key: value.shape for key, value in model.state_dict().items() if key not in local_names}
    faults = {
        "is local": [key for key in state if key in local_names],
        "is not in the model": [key for key in state if key not in local_names and key not in shared],
        "is missing": [key for key in shared if key not in state],
        "has another shape": [key for key in state if key in shared and state[key].shape != shared[key]],
    }
    said = [f"{', '.join(map(repr, keys))} {fault}" for fault, keys in faults.items() if keys]
    if said:
        raise StateMismatchError(
            f"state does not match the shared state of {type(model).__name__}: {'; '.join(said)}; "
            f"create it with shared_state from the same model and the same local layers"
        )
    model.load_state_dict(state, strict=False)
    return model
