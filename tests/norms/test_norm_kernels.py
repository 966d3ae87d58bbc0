"""A kernel, or a function that is recomputed, is equal to its equation, in output and in first and second gradients."""

import pytest
import torch
from torch import Tensor

from normzoo.norms._standardize import moments, standardize
from normzoo.norms.divisive_norm import divide
from normzoo.norms.dynamic_erf import squash
from normzoo.norms.evo_norm_b import batch_variance, quotient, rms_less_near
from normzoo.norms.evo_norm_s import gate
from normzoo.norms.filter_response_norm import filter_response
from normzoo.norms.local_response_norm import local_response
from normzoo.norms.online_norm import scale_layer
from normzoo.norms.rms_norm import root_mean_square

N, C, SIDE = 3, 4, 5


def values(*shape, above=None, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x if above is None else x.abs() + above


X, Y, COLUMN, MAP = values(N, C, SIDE, SIDE), values(N, C, SIDE, SIDE, seed=1), (1, C, 1, 1), (N, C, 1, 1)
WEIGHT, BIAS, V = (values(*COLUMN, seed=seed) for seed in (2, 3, 4))
SLOPE, SHIFT, FLOOR = values(*MAP, seed=5), values(*MAP, seed=6), values(*COLUMN, above=0.5, seed=7)
CASES = {
    "filter_response": (filter_response, X, WEIGHT, BIAS, V, 1e-6),
    "filter_response of a learned eps": (filter_response, X, WEIGHT, BIAS, V, torch.tensor(0.1).double()),
    "filter_response without tau": (filter_response, X, WEIGHT, BIAS, None, 1e-6),
    "root_mean_square": (root_mean_square, X, WEIGHT, 1e-6, 1),
    "root_mean_square of tokens": (root_mean_square, X, None, 1e-6, -1),
    "gate S0": (gate, X, V, WEIGHT, BIAS, 2, 1e-5, True),
    "gate S1": (gate, X, None, WEIGHT, BIAS, 2, 1e-5, True),
    "gate S2": (gate, X, None, WEIGHT, BIAS, 2, 1e-5, False),
    "quotient": (quotient, X, values(*MAP, seed=10), SLOPE, SHIFT, FLOOR, WEIGHT, BIAS),
    "quotient of one slope": (quotient, X, values(*MAP, seed=10), values(1), SHIFT, FLOOR, WEIGHT, BIAS),
    "rms_less_near": (rms_less_near, SLOPE, SHIFT, values(*MAP, above=0.5, seed=7), 1e-5),
    "batch_variance": (batch_variance, SLOPE, SHIFT, values(*MAP, above=0.5, seed=7)),
    "local_response": (local_response, X, 3, 0.1, 0.75, 2.0),
    "local_response of an even window": (local_response, X, 4, 0.1, 0.75, 2.0),
    "standardize over the batch": (standardize, X, (0, 2, 3), 1e-5),
    "standardize over channels": (standardize, X, (-3,), 1e-5),
    "moments": (moments, X, torch.float64),
    "squash": (squash, X, torch.tensor([0.5]).double(), torch.tensor([0.1]).double()),
    "divide": (divide, X, WEIGHT, BIAS, 3, 0.5),
    "divide without affine": (divide, X, None, None, 5, 0.5),
    "scale_layer": (scale_layer, X, WEIGHT, BIAS, 1e-5),
    "scale_layer without affine": (scale_layer, X, None, None, 1e-5),
}
CONSTANT = {
    "quotient": {1},
    "quotient of one slope": {1},
    "rms_less_near": {0},
}  # places of tensors that no gradient is for


def twice(function, inputs, constant):
    """Output, gradients, and the gradients of these."""
    inputs = [
        value.clone().requires_grad_(place not in constant) if isinstance(value, Tensor) else value
        for place, value in enumerate(inputs)
    ]
    wanted = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]
    y = function(*inputs)
    outputs = [each for each in (y if isinstance(y, tuple) else (y,)) if each.requires_grad]
    first = torch.autograd.grad([torch.sin(each).sum() for each in outputs], wanted, create_graph=True)
    second = torch.autograd.grad([torch.cos(each).sum() for each in first], wanted, allow_unused=True)
    return [*(y if isinstance(y, tuple) else (y,)), *first, *(torch.zeros(()) if g is None else g for g in second)]


@pytest.mark.parametrize("case", CASES)
def test_what_is_computed_is_the_equation(case):
    function, *inputs = CASES[case]
    constant = CONSTANT.get(case, set())
    actual, expected = (twice(each, inputs, constant) for each in (function, function.__wrapped__))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_map_on_the_threshold_gives_its_gradient_to_the_threshold():
    """As after a ReLU, whose zeros are many: kernel and equation agree there too."""
    inputs = (torch.zeros_like(X), WEIGHT, torch.zeros_like(BIAS), torch.zeros_like(V), 1e-6)
    for one, other in zip(
        twice(filter_response, inputs, ()), twice(filter_response.__wrapped__, inputs, ()), strict=True
    ):
        torch.testing.assert_close(one, other)
