"""Remember how a frozen layer was before."""

from torch import nn


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
