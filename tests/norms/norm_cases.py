"""Which norms there are, and layers and inputs to try them on."""

import pytest
import torch
from torch import Tensor, nn

import normzoo
from tests.norms import sample_oracles, uncentred_oracles

NAMES = [
    name
    for name in normzoo.list_norms(kind="layer")
    if normzoo.info(name).build.__module__.startswith("normzoo.norms.")
]
CHANNELS = 8
# Checks of seconds each: in the default run on a few norms, one of each kind of code.
LONG = {"compiles", "compiles_for_any_size", "exports", "exports_to_onnx", "gradgradcheck"}
OF_EACH_KIND = {"batch_norm", "group_norm", "rms_norm", "evo_norm_b0", "online_norm", "spade", "weight_norm"}
# What some norms cannot be built without.
NEEDED = {"num_classes": 3, "num_domains": 2, "condition_features": 5, "label_channels": 2}
# Whose gradient is by definition not the derivative, and why.
NOT_THE_DERIVATIVE = {
    "batch_instance_norm": "beyond [0, 1] the gradient of a gate is that of projected descent",
    "batch_channel_norm": "its estimates are constants to the gradient",
    "online_norm": "a control process over the samples takes its place",
    "power_norm": "statistics of the gradient run from batch to batch; while warming up the first derivative is exact",
    "moving_average_batch_norm": "as of power_norm",
}
# Whose output changes with the offset or the scale of the input.
NOT_STANDARDIZING = {"identity", "frozen_batch_norm", "mean_only_batch_norm", *uncentred_oracles.ORACLES}
NOT_STANDARDIZING |= set(sample_oracles.ORACLES) - {"positional_norm"}
NOT_STANDARDIZING |= {"batch_channel_norm", "online_norm"}  # their estimates lag behind
NOT_STANDARDIZING |= {"power_norm", "moving_average_batch_norm"}  # which leave the mean


def build(name: str, dtype: torch.dtype = torch.float64, channels: int = CHANNELS, **keywords) -> nn.Module:
    """A layer whose weight and bias are not their initial ones."""
    layer = normzoo.create(name, channels, **keywords).to(dtype)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def an_input(
    rank: int, dtype: torch.dtype = torch.float64, samples: int = 6, side: int = 3, channels: int = CHANNELS
) -> Tensor:
    """Values of another mean and spread than a norm gives them; rank counts batch and channels."""
    return torch.randn(samples, channels, *[side] * (rank - 2), dtype=torch.float64).mul(2).add(0.5).to(dtype)


def a_norm(name: str, **keywords) -> nn.Module:
    """Any of the registry: with what it needs, and on a dense layer where it is of weights."""
    info = normzoo.info(name)
    keywords |= {key: value for key, value in NEEDED.items() if key in info.arguments}
    return normzoo.create(name, nn.Linear(CHANNELS, CHANNELS) if info.kind == "weight" else CHANNELS, **keywords)


def marked(check, title: str):
    """Make a test case of this check of a norm: slow if it takes seconds and the norm is not one of the few."""
    slow = str(check) in LONG and title not in OF_EACH_KIND
    return pytest.param(check, id=f"{title}-{check}", marks=[pytest.mark.slow] if slow else [])
