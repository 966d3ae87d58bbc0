"""What a norm computes: its facts, its values, its derivatives, its precision."""

import copy
from collections.abc import Callable
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normzoo._conformance.subject import EXACT, TOLERANCE, Subject, run, same, state_of


def facts_hold(norm: Subject) -> None:
    """batch_dependent, train_eval_differ, state and includes_activation are as the layer behaves."""
    layer, x = norm.layer(), norm.x()
    before, buffers = state_of(layer), {name for name, _ in layer.named_buffers()}
    trained = layer(x)
    written = {name for name in buffers if not torch.equal(before[name], layer.state_dict()[name])}
    assert written == set(norm.info.state), f"training writes {sorted(written)}; state is {norm.info.state}"
    evaluated, parts = layer.eval()(x), torch.cat([norm.layer()(x[:2]), norm.layer()(x[2:])])
    found = {
        "train_eval_differ": not torch.allclose(trained, evaluated, rtol=EXACT),
        "batch_dependent": not torch.allclose(trained, parts, rtol=EXACT),
        "includes_activation": getattr(layer, "includes_activation", False),
    }
    for fact, value in found.items():
        assert value == getattr(norm.info, fact), f"{fact} is {value}, and said to be {not value}"


def independent_of_batch(norm: Subject) -> None:
    """A sample's output and gradient are those it has alone, where batch_dependent is False."""
    if norm.info.batch_dependent:
        raise SkipTest("depends on the batch, and says so")
    x = norm.x()
    for layer in norm.modes():

        def first(x: Tensor, layer: nn.Module = layer) -> Tensor:
            return layer(x)[:1]

        y, grad_x = run(first, x)
        same((y, grad_x[:1]), run(layer, x[:1]), "one sample of six", EXACT)
        assert not grad_x[1:].any(), "the other samples get a gradient"


def agrees_with_reference(norm: Subject) -> None:
    """The output in training is that of the reference formula, at each rank."""
    if norm.reference is None:
        raise SkipTest("no reference is given")
    for rank in norm.info.ranks:
        layer, x = norm.layer(), norm.x(rank)
        expected = torch.as_tensor(norm.reference(x, copy.deepcopy(layer)))
        same([layer(x).detach()], [expected], f"rank {rank}", EXACT)


def gradcheck(norm: Subject) -> None:
    """First derivatives agree with finite differences, in training and evaluation."""
    x = norm.x(batch=3, positions=[2] * (norm.rank - 2)).requires_grad_()
    for layer in norm.modes():
        torch.autograd.gradcheck(pure(layer), (x, *layer.parameters()), rtol=1e-5, atol=1e-6)


def gradgradcheck(norm: Subject) -> None:
    """Second derivatives agree with finite differences along a random direction, in training and evaluation."""
    x = norm.x(batch=3, positions=[2] * (norm.rank - 2)).requires_grad_()
    for layer in norm.modes():
        torch.autograd.gradgradcheck(pure(layer), (x, *layer.parameters()), rtol=1e-5, atol=1e-6, fast_mode=True)


def pure(layer: nn.Module) -> Callable[..., Tensor]:
    """The layer as a function of its input and parameters, which starts from the same buffers at every call."""
    names, buffers = [name for name, _ in layer.named_parameters()], dict(layer.named_buffers())

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(layer, {**dict(zip(names, weights, strict=True)), **fresh}, (x,))

    return function


def evaluates_deterministically(norm: Subject) -> None:
    """In evaluation the same input gives the same bits, and no state is written."""
    _, layer = norm.modes()
    x, before = norm.x(), state_of(layer)
    same([layer(x)], [layer(x)], "a second call")
    for name, old in before.items():
        assert torch.equal(layer.state_dict()[name], old), f"{name} is written"


def keeps_dtype(norm: Subject) -> None:
    """float16, bfloat16, float32 and float64 give their own dtype, with values near those of float64."""
    # An offset and many values, which statistics kept in half precision would not survive.
    wide = norm.x(positions=[16 if norm.rank < 5 else 6] * (norm.rank - 2)) + 4
    for dtype, tolerance in TOLERANCE.items():
        x, layer = wide.to(dtype), norm.layer(dtype)
        exact = run(copy.deepcopy(layer).double(), x.double())
        actual = run(layer, x)
        assert {tensor.dtype for tensor in actual} == {dtype}, f"{dtype} gives {[t.dtype for t in actual]}"
        same([t.double() for t in actual], exact, str(dtype), 2 * tolerance)


def autocast(norm: Subject) -> None:
    """Under autocast to bfloat16, inputs of float32 and of bfloat16 give outputs and gradients near float32's."""
    x = norm.x().float()
    expected = run(norm.layer(torch.float32), x)
    for given in (x, x.bfloat16()):
        with torch.autocast(torch.device(norm.device).type, torch.bfloat16):
            actual = run(norm.layer(torch.float32), given)
        same([t.float() for t in actual], expected, f"{given.dtype} input", 2 * TOLERANCE[torch.bfloat16])


def huge_offset(norm: Subject) -> None:
    """In float32 an offset of 1e6 costs no more digits than the input itself has lost."""
    # One unit in the last place of 1e6 is 1/16, against a standard deviation of 200.
    x = (100 * norm.x(positions=[12] * (norm.rank - 2)) + 1e6).float()
    layer = norm.layer(torch.float32)
    expected = copy.deepcopy(layer).double()(x.double())
    same([layer(x).double() / expected.abs().max()], [expected / expected.abs().max()], "float32", 2e-3)
