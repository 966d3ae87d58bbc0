"""What torch does with a norm: saving, compiling, exporting, stacking, building without memory."""

import copy
import importlib
import importlib.util
import io
import itertools
import pickle
import warnings
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from normzoo._conformance.subject import EXACT, TOLERANCE, Subject, cast, run, same, same_named, state_of


def survives_saving(norm: Subject) -> None:
    """state_dict through torch.save, and deepcopy, give layers that do the same and share nothing."""
    for layer in norm.modes():
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        loaded = norm.layer(seed=3).train(layer.training)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        are_twins(norm, layer, {"state_dict": loaded, "deepcopy": copy.deepcopy(layer)})


def pickles(norm: Subject) -> None:
    """Check that pickle gives a layer that does the same and shares nothing."""
    for layer in norm.modes():
        try:
            pickled = pickle.dumps(layer)
        except RuntimeError as error:
            if norm.info.kind == "weight":  # of torch's, which builds a class for each parametrized module
                raise SkipTest(f"torch refuses: {error}") from error
            raise
        are_twins(norm, layer, {"pickle": pickle.loads(pickled)})


def are_twins(norm: Subject, layer: nn.Module, copies: dict[str, nn.Module]) -> None:
    given = norm.given()
    y, before = layer(*given), state_of(layer)
    for how, twin in copies.items():
        same([twin(*given)], [y], how)
        for tensor in twin.state_dict().values():
            tensor.zero_()
        assert all(torch.equal(layer.state_dict()[name], old) for name, old in before.items()), f"{how} shares"


def compiles(norm: Subject) -> None:
    """torch.compile(fullgraph=True) gives what eager mode does, gradients and state too, in training and evaluation."""
    for eager in norm.modes(torch.float32):
        given, twin = cast(norm.given(), torch.float32), copy.deepcopy(eager)
        torch._dynamo.reset()
        compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
        actual = run(compiled, given, twin.parameters())
        same(actual, run(eager, given, eager.parameters()), f"training={eager.training}", TOLERANCE[torch.float32])
        same_named(twin.state_dict(), eager.state_dict(), "after training", TOLERANCE[torch.float32])


def compiles_for_any_size(norm: Subject) -> None:
    """torch.compile(dynamic=True, fullgraph=True) gives what eager mode does, for batches of several sizes."""
    if "torch.compile(dynamic=True)" in norm.info.unsupported:
        raise SkipTest("is said not to")
    eager, _ = norm.modes(torch.float32)
    twin = copy.deepcopy(eager)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (6, 4):
        given = cast(norm.given(batch=batch), torch.float32)
        same(run(compiled, given), run(eager, given), f"{batch} samples", TOLERANCE[torch.float32])


def traces(norm: Subject) -> None:
    """torch.fx takes the layer as one node, and torch.jit.trace and torch.jit.script give the same output."""
    _, layer = norm.modes(torch.float32)
    batches = [cast(norm.given(batch=batch), torch.float32) for batch in (6, 4)]
    if norm.info.owner:  # as of what is registered alone
        model = Called(layer)
        traced = torch.fx.symbolic_trace(model, {"condition": None} if len(batches[0]) == 1 else None)
        nodes = [node.target for node in traced.graph.nodes if node.op == "call_module"]
        assert nodes == ["layer"], f"torch.fx finds the modules {nodes}"
        for given in batches:
            same([traced(*given)], [layer(*given)], f"torch.fx, {len(given[0])} samples")
    for tool in {"torch.jit.trace", "torch.jit.script"} - set(norm.info.unsupported):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(layer) if tool == "torch.jit.script" else torch.jit.trace(layer, batches[0])
        for given in batches:
            same([scripted(*given)], [layer(*given)], f"{tool}, {len(given[0])} samples", TOLERANCE[torch.float32])


class Called(nn.Module):
    """A model that calls a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layer(x) if condition is None else self.layer(x, condition)


def exports(norm: Subject) -> None:
    """torch.export takes the layer, in evaluation and for any number of samples, and gives the same output."""
    _, layer = norm.modes(torch.float32)
    given = cast(norm.given(), torch.float32)
    batch = torch.export.Dim("batch", min=2, max=1024)
    program = torch.export.export(layer, given, dynamic_shapes=tuple({0: batch} for _ in given)).module()
    for more in (given, tuple(torch.cat([tensor, tensor]) for tensor in given)):
        same([program(*more)], [layer(*more)], f"{len(more[0])} samples", TOLERANCE[torch.float32])


def exports_to_onnx(norm: Subject) -> None:
    """torch.onnx takes the layer, in evaluation, and the model gives the same output."""
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript")):
        raise SkipTest("onnx and onnxscript are not both installed")
    reference = importlib.import_module("onnx.reference")
    _, layer = norm.modes(torch.float32)
    given = cast(norm.given(), torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(layer, given, dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    named = {put.name: tensor.cpu().numpy() for put, tensor in zip(model.graph.input, given, strict=True)}
    (y,) = reference.ReferenceEvaluator(model).run(None, named)
    same([torch.as_tensor(y)], [layer(*given).detach().cpu()], "the model", TOLERANCE[torch.float32])


def replicas_under_vmap(norm: Subject) -> None:
    """Replicas stacked by torch.func and trained under vmap(grad) are those trained one after the other."""
    x, *condition = (torch.stack(tensors) for tensors in zip(*(norm.given(seed=s) for s in range(3)), strict=True))
    base = norm.layer()
    replicas = [copy.deepcopy(base) for _ in range(3)]  # copies, as each parametrized module is of a class of its own
    for seed, replica in enumerate(replicas):
        replica.load_state_dict(norm.layer(seed=seed).state_dict())
    weights, buffers = stack_module_state(replicas)

    def loss(weights: dict[str, Tensor], x: Tensor, buffers: dict[str, Tensor], *condition: Tensor) -> Tensor:
        return (functional_call(base, {**weights, **buffers}, (x, *condition)) ** 3).sum()

    grads, grad_x = vmap(grad(loss, argnums=(0, 1)))(weights, x, buffers, *condition)
    for i, replica in enumerate(replicas):
        own = x[i].clone().requires_grad_()
        y = replica(own, *(tensor[i] for tensor in condition))
        expected = torch.autograd.grad((y**3).sum(), [own, *replica.parameters()])
        same([x[i], grad_x[i], *(g[i] for g in grads.values())], [x[i], *expected], f"replica {i}", EXACT)
        for name, buffer in replica.named_buffers():
            same_named({name: buffers[name][i]}, {name: buffer}, f"replica {i}", EXACT)


def leaves_global_state_alone(norm: Subject) -> None:
    """Forward and backward leave the random number generators, grad mode and default dtype as they are."""
    given = norm.given()
    for layer, enabled in itertools.product(norm.modes(), (True, False)):
        before, dtype = torch.get_rng_state(), torch.get_default_dtype()
        with torch.set_grad_enabled(enabled):
            x, *condition = given
            y = layer(x.clone().requires_grad_(enabled), *condition)
            assert torch.is_grad_enabled() == enabled, "grad mode is changed"
        if enabled:
            y.sum().backward()
        assert torch.equal(torch.get_rng_state(), before), "the random number generator is advanced"
        assert torch.get_default_dtype() == dtype, "the default dtype is changed"


def meta_device(norm: Subject) -> None:
    """Built on the meta device it gives shapes, and to_empty() and reset_parameters() make it a new layer."""
    with torch.device("meta"):
        layer = norm.new()
    given = cast(norm.given(), torch.float32)
    assert layer(*cast(given, "meta")).shape == given[0].shape
    if norm.info.kind == "weight":
        return  # the module is filled before it is parametrized
    layer.to_empty(device=norm.device)
    for module in layer.modules():
        if next(itertools.chain(module.parameters(False), module.buffers(False)), None) is not None:
            assert hasattr(module, "reset_parameters"), f"{type(module).__name__} has no reset_parameters()"
            module.reset_parameters()  # type: ignore[operator]
    new, another = (norm.new().state_dict() for _ in range(2))
    for name, tensor in layer.state_dict().items():
        if torch.equal(new[name], another[name]):  # not drawn at random
            same_named({name: tensor}, new, "reset")
