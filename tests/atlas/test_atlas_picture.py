"""The picture of a norm, worked out from its facts, is what the layer does."""

import copy
import math

import pytest
import torch

import normzoo
from normzoo.atlas import picture

OTHERS = {"condition_features": 4, "num_classes": 2, "label_channels": 3, "hidden_features": 4}
LAYERS = [name for name in normzoo.list_norms() if normzoo.info(name).kind != "weight"]


def layer_and_condition(norm, seed):
    options = {**picture.options(norm), **{name: value for name, value in OTHERS.items() if name in norm.arguments}}
    generator = torch.Generator().manual_seed(seed)
    layer = norm.build(picture.CHANNELS, **options).double()
    for name, parameter in layer.named_parameters():
        low = -9 if name == "tau" else 0.5  # a threshold would hide the values that it cuts off
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) + low)
    samples, channels, positions = picture.SHAPE
    conditions = {
        "adaptive_instance_norm": torch.rand(samples, channels, positions, 1, generator=generator).double(),
        "adaptive_layer_norm": torch.rand(samples, 4, generator=generator).double(),
        "spade": torch.rand(samples, 3, positions, 1, generator=generator).double(),
    }
    condition = conditions.get(norm.name, torch.arange(samples) // 2)  # a class or a domain a sample
    return layer, (condition,) if norm.kind == "conditional" else ()


def moved(norm, seed):
    """Row i marks the values whose change moves output i."""
    layer, condition = layer_and_condition(norm, seed)
    samples, channels, positions = picture.SHAPE
    x = torch.randn(samples, channels, positions, 1, generator=torch.Generator().manual_seed(seed)).double()
    before = copy.deepcopy(layer)(x, *condition).detach().flatten()
    columns = []
    for i in range(x.numel()):
        changed = x.clone()
        changed.view(-1)[i] += 1
        after = copy.deepcopy(layer)(changed, *condition).detach().flatten()
        columns.append((after - before).abs() > 1e-9)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", LAYERS)
def test_the_values_that_share_a_color_are_those_that_move_an_output(name):
    norm = normzoo.info(name)
    own = torch.eye(math.prod(picture.SHAPE)).bool()
    at_least = at_most = torch.stack([*picture.statistics(norm).values(), own]).any(0)
    found = moved(norm, 0)
    for seed in range(1, 12):  # a maximum may hide some of them
        if (at_least & ~found).any():
            found |= moved(norm, seed)
    for _ in range(4):  # a statistic of values that were normalized by another one
        at_most = (at_most.float() @ at_most.float()) > 0
    assert not (at_least & ~found).any(), "values of one color that do not move each other's outputs"
    assert not (found & ~at_most).any(), "values of different colors that move each other's outputs"


@pytest.mark.parametrize("name", normzoo.list_norms())
def test_values_share_a_color_if_and_only_if_they_share_a_statistic(name):
    for averaged in picture.statistics(normzoo.info(name)).values():
        fills = picture.colors(averaged)
        if torch.equal((averaged.float() @ averaged.float()) > 0, averaged):
            in_one = averaged.any(1).nonzero().flatten().tolist()
            assert all((fills[i] == fills[j]) == bool(averaged[i, j]) for i in in_one for j in in_one)
            assert {fill for i, fill in enumerate(fills) if i not in in_one} <= {picture.GRAY}
        else:
            (value,) = (i for i, fill in enumerate(fills) if fill == picture.COLORS[5])
            shown = {i for i, fill in enumerate(fills) if fill != picture.GRAY}
            assert shown == {value, *averaged[value].nonzero().flatten().tolist()}
