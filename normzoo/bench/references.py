"""The reference layer of each norm: the torch kernel it is built on, timm's layer, or torch's batch norm."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from normzoo.registry import create

# Values for the required arguments of some norms.
NEEDED = {"num_classes": 10, "num_domains": 2, "condition_features": 64, "label_channels": 8}


@dataclass(frozen=True)
class Reference:
    """A layer to compare with, and its name in the table."""

    title: str
    build: Callable[[int], nn.Module]
    needs: str = ""
    """A package that may not be installed."""

    @property
    def missing(self) -> str:
        """Why the reference cannot be built; empty if it can."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"{self.needs} is not installed (pip install {self.needs})"


class ChannelsMoved(nn.Module):
    """Apply one of torch's token layers to `(N, C, *)`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x over its channels."""
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


def _timm(name: str, **keywords: Any) -> Reference:
    def build(channels: int) -> nn.Module:
        import timm.layers

        # Use the same number of groups as our group_norm.
        groups = {"groups": create("group_norm", channels).num_groups} if "S" in name else {}
        return getattr(timm.layers, name)(channels, **groups, **keywords)

    return Reference(f"timm {name}", build, needs="timm")


def _group_norm(channels: int) -> nn.Module:
    groups = create("group_norm", channels).num_groups
    assert isinstance(groups, int)
    return nn.GroupNorm(groups, channels)


BATCH_NORM = Reference("nn.BatchNorm2d", nn.BatchNorm2d)
GROUP_NORM = Reference("nn.GroupNorm", _group_norm)
LAYER_NORM = Reference("nn.GroupNorm(1)", lambda channels: nn.GroupNorm(1, channels))
INSTANCE_NORM = Reference("nn.InstanceNorm2d", lambda channels: nn.InstanceNorm2d(channels, affine=True))
CONVOLUTION = Reference("nn.Conv2d without it", lambda channels: nn.Conv2d(channels, channels, 3, padding=1))

REFERENCES = {
    "identity": Reference("nn.Identity", lambda channels: nn.Identity()),
    "group_norm": GROUP_NORM,
    "group_norm_scratch": GROUP_NORM,
    "layer_norm": LAYER_NORM,
    "layer_norm_scratch": LAYER_NORM,
    "layer_norm_channel": Reference("nn.LayerNorm", lambda channels: ChannelsMoved(nn.LayerNorm(channels))),
    "positional_norm": Reference("nn.LayerNorm", lambda channels: ChannelsMoved(nn.LayerNorm(channels))),
    "instance_norm": INSTANCE_NORM,
    "instance_norm_scratch": INSTANCE_NORM,
    "adaptive_instance_norm": INSTANCE_NORM,
    "rms_norm": Reference("nn.RMSNorm", lambda channels: ChannelsMoved(nn.RMSNorm(channels))),
    "local_response_norm": Reference("nn.LocalResponseNorm", lambda channels: nn.LocalResponseNorm(5)),
    "filter_response_norm": _timm("FilterResponseNormTlu2d"),
    **{f"evo_norm_{kind}": _timm(f"EvoNorm2d{kind.upper()}") for kind in ("b0", "b1", "b2", "s0", "s1", "s2")},
}
# References on tokens (N, L, C), for norms that take `channel_dim=-1`.
TOKENS = {
    "layer_norm_channel": Reference("nn.LayerNorm", nn.LayerNorm),
    "rms_norm": Reference("nn.RMSNorm", nn.RMSNorm),
}
