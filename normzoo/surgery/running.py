"""Tell which layers of a model have running statistics, which buffers hold them, and which of them are frozen."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from normzoo.registry import facts_of
from normzoo.surgery.identify import identify


class Frozen:
    """Stand in for the `train` of one layer that stays in evaluation mode, and remember how it was before.

    An attribute of the layer, so that copies and pickles of the model are frozen too.

    Attributes:
        statistics: Whether the layer stays in evaluation mode.
        trainable: Which of its parameters required gradients, by name; empty if they are not frozen.
        mode: The mode that the layer would be in.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.mode = layer, layer.training
        self.statistics = False
        self.trainable: dict[str, bool] = {}

    def __call__(self, mode: bool = True) -> nn.Module:
        """Set the mode of the children, such as dropout behind the norm, and of the layer unless it is frozen."""
        self.mode = mode
        self.layer.training = mode and not self.statistics
        for child in self.layer.children():
            child.train(mode)
        return self.layer


def frozen(layer: nn.Module) -> Frozen | None:
    """Return what `freeze` has remembered of a layer; None if it is not frozen."""
    found = vars(layer).get("train")
    return found if isinstance(found, Frozen) else None


def statistics_frozen(layer: nn.Module) -> bool:
    """Return whether `freeze` keeps the layer in evaluation mode."""
    found = frozen(layer)
    return found is not None and found.statistics


def differing_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms, ours or others', that use different statistics in evaluation and in training.

    The layer decides, not its class: a batch norm without running statistics does not differ, an instance norm with
    them does. A layer can state it by an attribute `train_eval_differ`.
    """
    return (layer for layer in model.modules() if _differs(layer))


def _differs(layer: nn.Module) -> bool:
    if statistics_frozen(layer):
        return False
    if hasattr(layer, "train_eval_differ"):
        return bool(layer.train_eval_differ)
    facts, buffers = facts_of(layer), dict(layer.named_buffers())
    if facts and facts.train_eval_differ:
        return not facts.state or any(name in buffers for name in facts.state)
    if isinstance(layer, _InstanceNorm) and not layer.track_running_stats:
        return False  # it has running statistics, but ignores them
    return moves(layer)


def tracks(layer: nn.Module) -> bool:
    """Return whether training moves running statistics of the layer, which `recalibrate` can recompute."""
    tracking = bool(getattr(layer, "track_running_stats", True))
    return tracking and moves(layer) and not statistics_frozen(layer)


def running_statistics(layer: nn.Module) -> dict[str, str]:
    """Return the buffers that hold running statistics of the layer's input, and the usual names of the statistics."""
    facts, buffers = facts_of(layer), dict(layer.named_buffers(recurse=False))
    names = [name for name in buffers if name.startswith("running_")]
    if names or facts:
        return {name: name for name in names if not facts or not facts.state or name in facts.state}
    vectors = [b.shape for b in buffers.values() if b.dim() == 1 and b.is_floating_point()]
    if len(vectors) < 2 or any(p.dim() > 1 for p in layer.parameters(recurse=False)):
        return {}
    norm = identify(layer)
    known = norm.equation == "batch_norm" and norm.mean is not None and norm.var is not None
    return {norm.mean: "running_mean", norm.var: "running_var"} if known else {}  # type: ignore[dict-item]


def moves(layer: nn.Module) -> bool:
    """Return whether the layer has running statistics that it moves in training, as long as nobody stops it."""
    statistics = running_statistics(layer)
    # Without a momentum, as in a frozen batch norm, what is called running are constants.
    return bool(statistics) and (hasattr(layer, "momentum") or not any(n.startswith("running_") for n in statistics))
