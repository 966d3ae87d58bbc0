"""Gradients: by finite differences, first and second, and against the chain rule that the paper writes out."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from normzoo.norms._standardize import standardize
from tests.norms.norm_cases import NOT_THE_DERIVATIVE, an_input, build


def small_case(name, keywords):
    channels = 4 if keywords.get("num_groups") != 8 else 8
    layer = build(name, channels=channels, **keywords)
    x = an_input(4, samples=4, side=2, channels=channels)
    x = (x.movedim(1, -1) if keywords.get("channel_dim") == -1 else x).contiguous()
    return layer, x.requires_grad_()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(name, keywords, training):
    """Of the input, weight and bias. The running statistics move while it is called, which no output sees."""
    if name in NOT_THE_DERIVATIVE:
        pytest.skip(NOT_THE_DERIVATIVE[name])
    layer, x = small_case(name, keywords)
    layer.train(training)
    parameters = dict(layer.named_parameters())

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    inputs = (x, *(value.detach().requires_grad_() for value in parameters.values()))
    assert gradcheck(output, inputs, fast_mode=True)
    assert gradgradcheck(output, inputs, fast_mode=True)


@pytest.mark.parametrize("dims", [(0, 2, 3), (1, 2, 3), (2, 3), (1,), (-1,), (0, 1, 2, 3)])
def test_standardize_in_full(dims):
    """Every element of the Jacobian, through x_hat, mean and variance."""
    x = an_input(4, samples=3, side=2, channels=3).requires_grad_()
    assert gradcheck(lambda x: standardize(x, dims, 1e-5)[:3], x)
    assert gradgradcheck(lambda x: standardize(x, dims, 1e-5)[:3], x)


def chain_rule_of_the_paper(x, weight, g, eps):
    """The six lines under Algorithm 1 of Ioffe & Szegedy 2015, for one channel of m values."""
    m = len(x)
    mean, var = x.mean(), x.var()
    x_hat = (x - mean) / np.sqrt(var + eps)
    g_x_hat = g * weight
    g_var = np.sum(g_x_hat * (x - mean) * -0.5 * (var + eps) ** -1.5)
    g_mean = np.sum(g_x_hat * -1 / np.sqrt(var + eps)) + g_var * np.sum(-2 * (x - mean)) / m
    g_x = g_x_hat / np.sqrt(var + eps) + g_var * 2 * (x - mean) / m + g_mean / m
    return g_x, np.sum(g * x_hat), np.sum(g)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("batch_norm", ["batch_norm", "batch_norm_scratch", "sync_batch_norm"])
def test_backward_is_the_chain_rule_of_the_paper(batch_norm, rank):
    layer, x = build(batch_norm), an_input(rank).requires_grad_()
    g = torch.randn_like(x)
    layer(x).backward(g)
    for c in range(x.shape[1]):
        xs, gs, weight = x[:, c].detach().numpy(), g[:, c].numpy(), layer.weight[c].item()
        g_x, g_weight, g_bias = chain_rule_of_the_paper(xs.ravel(), weight, gs.ravel(), layer.eps)
        np.testing.assert_allclose(x.grad[:, c].numpy().ravel(), g_x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.weight.grad[c].item(), g_weight, rtol=1e-10)
        np.testing.assert_allclose(layer.bias.grad[c].item(), g_bias, rtol=1e-10)


@pytest.mark.parametrize("twin", ["batch_norm", "group_norm", "layer_norm", "instance_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_the_twins_agree(twin, dtype):
    """In dtype and value, both against the fused kernel in float64."""
    exact = build(twin)
    layer = build(f"{twin}_scratch", torch.float32)
    layer.load_state_dict(exact.state_dict())
    exact.load_state_dict(layer.state_dict())
    x = an_input(4, dtype, side=6)
    g = torch.randn_like(x)
    x64 = x.double().requires_grad_()
    x.requires_grad_()
    layer(x).backward(g)
    exact(x64).backward(g.double())
    assert x.grad.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=8 * step, atol=8 * step)
    for key, parameter in layer.named_parameters():
        spread = dict(exact.named_parameters())[key].grad
        torch.testing.assert_close(parameter.grad.double(), spread, rtol=8 * step, atol=60 * step)


def test_saves_one_activation_beside_the_statistics():
    """What the layer holds for its backward: x_hat alone, whose product with the weight saves it once more."""
    layer, x = build("batch_norm_scratch", torch.float32), an_input(4, torch.float32, samples=16).requires_grad_()
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert sum(storages.values()) <= 1.05 * x.numel() * 4
    y.sum().backward()
