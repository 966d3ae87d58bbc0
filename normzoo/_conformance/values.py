"""What a norm computes: its values, its derivatives, its precision."""

import copy
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normzoo._conformance.subject import EXACT, TOLERANCE, Given, Subject, cast, part, run, same, state_of, weight_of


def independent_of_batch(norm: Subject) -> None:
    """A sample's output and gradient are those it has alone, where batch_dependent is False."""
    if norm.info.batch_dependent:
        raise SkipTest("depends on the batch, and says so")
    given = norm.given()
    for layer in norm.modes():

        def first(*given: Tensor, layer: nn.Module = layer) -> Tensor:
            return layer(*given)[:1]

        twin = copy.deepcopy(layer)  # as a training step may change what the next one computes
        y, *grads = run(first, given)
        same((y, *(grad[:1] for grad in grads)), run(twin, part(given, slice(1))), "one sample of six", EXACT)
        assert not any(grad[1:].any() for grad in grads), "the other samples get a gradient"


def agrees_with_reference(norm: Subject) -> None:
    """The output in training, for a norm of weights the weight, is that of the reference formula, at each rank."""
    if norm.reference is None:
        raise SkipTest("no reference is given")
    for rank in norm.info.ranks:
        layer, given = norm.layer(rank=rank), norm.given(rank)
        twin = copy.deepcopy(layer)
        if norm.info.kind == "weight":
            actual, expected = weight_of(layer), norm.reference(originals(twin), twin)
        else:
            actual, expected = layer(*given), norm.reference(*given, twin)
        same([actual.detach()], [torch.as_tensor(expected)], f"rank {rank}", EXACT)


def trains_its_parameters(norm: Subject) -> None:
    """In training each parameter gets a gradient that is not zero."""
    layer, given = norm.layer(), norm.given()
    parameters = dict(layer.named_parameters())
    if not parameters:
        raise SkipTest("has no parameters")
    grads = run(layer, given, parameters.values())[-len(parameters) :]
    # Of a parameter that the output does not depend on at all, `run` gives a gradient of zeros.
    zero = [name for name, gradient in zip(parameters, grads, strict=True) if not gradient.any()]
    assert not zero, f"the gradient of {' and '.join(zero)} is zero"


def gradcheck(norm: Subject) -> None:
    """First derivatives agree with finite differences, in training and evaluation."""
    given = small(norm)
    for layer in norm.modes():
        torch.autograd.gradcheck(pure(layer, len(given)), (*given, *layer.parameters()), rtol=1e-5, atol=1e-6)


def gradgradcheck(norm: Subject) -> None:
    """Second derivatives agree with finite differences along a random direction, in training and evaluation."""
    given = small(norm)
    for layer in norm.modes():
        inputs = (*given, *layer.parameters())
        torch.autograd.gradgradcheck(pure(layer, len(given)), inputs, rtol=1e-5, atol=1e-6, fast_mode=True)


def small(norm: Subject) -> Given:
    """Few enough values for finite differences."""
    given = norm.given(batch=3, positions=[2] * (norm.rank - 2))
    return tuple(tensor.requires_grad_(tensor.is_floating_point()) for tensor in given)


def pure(layer: nn.Module, inputs: int) -> Callable[..., Tensor]:
    """The layer as a function of inputs and parameters, which starts from the same buffers at every call."""
    names, buffers = [name for name, _ in layer.named_parameters()], dict(layer.named_buffers())

    def function(*tensors: Tensor) -> Tensor:
        given, weights = tensors[:inputs], tensors[inputs:]
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(layer, {**dict(zip(names, weights, strict=True)), **fresh}, given)

    return function


def originals(module: nn.Module) -> Any:
    """What a parametrized weight is computed from: a tensor, or several."""
    kept: Any = module.get_submodule("parametrizations.weight")
    return kept.original if hasattr(kept, "original") else [getattr(kept, f"original{i}") for i in range(kept.ntensors)]


def evaluates_deterministically(norm: Subject) -> None:
    """In evaluation the same input gives the same bits, and no state is written."""
    _, layer = norm.modes()
    given, before = norm.given(), state_of(layer)
    same([layer(*given)], [layer(*given)], "a second call")
    for name, old in before.items():
        assert torch.equal(layer.state_dict()[name], old), f"{name} is written"


def keeps_dtype(norm: Subject) -> None:
    """float16, bfloat16, float32 and float64 give their own dtype, with values near those of float64."""
    # An offset and many values, which statistics kept in half precision would not survive.
    x, *condition = norm.given(positions=[16 if norm.rank < 5 else 6] * (norm.rank - 2))
    for dtype, tolerance in TOLERANCE.items():
        given, layer = cast((x + 4, *condition), dtype), norm.layer(dtype)
        exact = run(copy.deepcopy(layer).double(), cast(given, torch.float64))
        actual = run(layer, given)
        assert {tensor.dtype for tensor in actual} == {dtype}, f"{dtype} gives {[t.dtype for t in actual]}"
        near(actual, exact, str(dtype), 2 * tolerance)


def autocast(norm: Subject) -> None:
    """Under autocast to bfloat16, inputs of float32 and of bfloat16 give outputs and gradients near float32's."""
    single = cast(norm.given(), torch.float32)
    expected = run(norm.layer(torch.float32), single)
    for given in (single, cast(single, torch.bfloat16)):
        with torch.autocast(torch.device(norm.device).type, torch.bfloat16):
            actual = run(norm.layer(torch.float32), given)
        near(actual, expected, f"{given[0].dtype} input", 2 * TOLERANCE[torch.bfloat16])


def near(actual: Given, exact: Given, where: str, tolerance: float) -> None:
    """Output and gradients agree; that of a condition, which sums over many values, up to a part of its largest."""
    scales = [1.0, 1.0, *(max(1.0, tensor.abs().max().item()) for tensor in exact[2:])]
    actual, exact = (
        tuple(tensor.double() / scale for tensor, scale in zip(tensors, scales, strict=True))
        for tensors in (actual, exact)
    )
    same(actual, exact, where, tolerance)
