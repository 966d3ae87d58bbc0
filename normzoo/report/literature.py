"""Figures that papers report, as data with their citation, to stand beside what was measured here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One published row: error in percent at each batch size per device, one curve a norm."""

    citation: str
    what: str
    short: str
    errors: Mapping[str, Mapping[int, float]]


GROUP_NORM_IMAGENET = Reference(
    citation="Wu & He, Group Normalization, ECCV 2018, arXiv:1803.08494",
    what="ResNet-50 on ImageNet, 8 GPUs, 100 epochs, validation error in %, images per GPU",
    short="ImageNet, Wu & He 2018",
    errors={
        "batch_norm": {2: 34.7, 4: 27.3, 8: 24.8, 16: 23.7, 32: 23.6},
        "group_norm": {2: 24.1, 4: 24.2, 8: 24.0, 16: 24.2, 32: 24.1},
    },
)
