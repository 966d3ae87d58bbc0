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
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from normzoo._conformance.subject import EXACT, TOLERANCE, Subject, run, same, same_named, state_of


def survives_saving(norm: Subject) -> None:
    """state_dict through torch.save, deepcopy and pickle give layers that do the same and share nothing."""
    for layer in norm.modes():
        file, x = io.BytesIO(), norm.x()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        loaded = norm.layer(seed=3).train(layer.training)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        copies = {"state_dict": loaded, "deepcopy": copy.deepcopy(layer), "pickle": pickle.loads(pickle.dumps(layer))}
        y, before = layer(x), state_of(layer)
        for how, twin in copies.items():
            same([twin(x)], [y], how)
            for tensor in twin.state_dict().values():
                tensor.zero_()
            assert all(torch.equal(layer.state_dict()[name], old) for name, old in before.items()), f"{how} shares"


def compiles(norm: Subject) -> None:
    """torch.compile(fullgraph=True) gives what eager mode does, gradients and state too, in training and evaluation."""
    for eager in norm.modes(torch.float32):
        x, twin = norm.x().float(), copy.deepcopy(eager)
        torch._dynamo.reset()
        compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
        actual = run(compiled, x, twin.parameters())
        same(actual, run(eager, x, eager.parameters()), f"training={eager.training}", TOLERANCE[torch.float32])
        same_named(twin.state_dict(), eager.state_dict(), "after training", TOLERANCE[torch.float32])


def exports(norm: Subject) -> None:
    """torch.export takes the layer, in evaluation and for any number of samples, and gives the same output."""
    _, layer = norm.modes(torch.float32)
    x = norm.x().float()
    batch = torch.export.Dim("batch", min=2, max=1024)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},)).module()
    for given in (x, torch.cat([x, x])):
        same([program(given)], [layer(given)], f"{len(given)} samples", TOLERANCE[torch.float32])


def exports_to_onnx(norm: Subject) -> None:
    """torch.onnx takes the layer, in evaluation, and the model gives the same output."""
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript")):
        raise SkipTest("onnx and onnxscript are not both installed")
    reference = importlib.import_module("onnx.reference")
    _, layer = norm.modes(torch.float32)
    x = norm.x().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    (y,) = reference.ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.cpu().numpy()})
    same([torch.as_tensor(y)], [layer(x).detach().cpu()], "the model", TOLERANCE[torch.float32])


def replicas_under_vmap(norm: Subject) -> None:
    """Replicas stacked by torch.func and trained under vmap(grad) are those trained one after the other."""
    replicas, x = [norm.layer(seed=seed) for seed in range(3)], torch.stack([norm.x(seed=seed) for seed in range(3)])
    weights, buffers = stack_module_state(replicas)
    base = norm.layer()

    def loss(weights: dict[str, Tensor], x: Tensor, buffers: dict[str, Tensor]) -> Tensor:
        return (functional_call(base, {**weights, **buffers}, (x,)) ** 3).sum()

    grads, grad_x = vmap(grad(loss, argnums=(0, 1)))(weights, x, buffers)
    for i, replica in enumerate(replicas):
        own = x[i].clone().requires_grad_()
        expected = torch.autograd.grad((replica(own) ** 3).sum(), [own, *replica.parameters()])
        same([x[i], grad_x[i], *(g[i] for g in grads.values())], [x[i], *expected], f"replica {i}", EXACT)
        for name, buffer in replica.named_buffers():
            same_named({name: buffers[name][i]}, {name: buffer}, f"replica {i}", EXACT)


def leaves_global_state_alone(norm: Subject) -> None:
    """Forward and backward leave the random number generators, grad mode and default dtype as they are."""
    for layer, enabled in itertools.product(norm.modes(), (True, False)):
        before, dtype = torch.get_rng_state(), torch.get_default_dtype()
        with torch.set_grad_enabled(enabled):
            y = layer(norm.x().requires_grad_(enabled))
            assert torch.is_grad_enabled() == enabled, "grad mode is changed"
        if enabled:
            y.sum().backward()
        assert torch.equal(torch.get_rng_state(), before), "the random number generator is advanced"
        assert torch.get_default_dtype() == dtype, "the default dtype is changed"


def meta_device(norm: Subject) -> None:
    """Built on the meta device it gives shapes, and to_empty() and reset_parameters() make it a new layer."""
    with torch.device("meta"):
        layer = norm.build(norm.num_features)
    x = norm.x().float()
    assert layer(x.to("meta")).shape == x.shape
    layer.to_empty(device=norm.device)
    for module in layer.modules():
        if next(itertools.chain(module.parameters(False), module.buffers(False)), None) is not None:
            assert hasattr(module, "reset_parameters"), f"{type(module).__name__} has no reset_parameters()"
            module.reset_parameters()  # type: ignore[operator]
    new, another = (norm.build(norm.num_features).state_dict() for _ in range(2))
    for name, tensor in layer.state_dict().items():
        if torch.equal(new[name], another[name]):  # not drawn at random
            same_named({name: tensor}, new, "reset")
