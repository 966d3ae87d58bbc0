"""What the fork server does once, by importing this module, so that no cell has to.

Nothing here may start a thread or a GPU, which do not survive a fork.
"""

import contextlib
import gc

import torch
from omegaconf.grammar_parser import parse
from torch import nn

# The data set and the model of most cells; those of others are imported by the cells themselves.
from normzoo.training.cell import package_versions
from normzoo.training.machine import processor_name


def _warm_up() -> None:
    """Call what is slow the first time or caches its result."""
    package_versions()
    processor_name()
    for reference in ("${a.b}", "${hydra:runtime.output_dir}/c"):
        parse(reference)
    with torch.device("meta"), torch.no_grad():
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        nn.init.kaiming_normal_(layers[0].weight)
        nn.Sequential(*layers)(torch.empty(2, 1, 4, 4))


with contextlib.suppress(Exception):  # a cell that meets the same error reports it
    _warm_up()
gc.collect()
gc.freeze()  # cells then neither scan nor copy what they all share
