"""Every registered norm gives what its definition says, whatever the rank, keywords, dtype or offset.

What the conformance suite asks of every norm is in `test_conformance.py`.
"""

import copy

import pytest
import torch

import normzoo
from tests.norms.norm_cases import CHANNELS, NAMES, an_input, build
from tests.norms.oracles import ORACLES, expected


def test_every_norm_has_an_oracle():
    assert sorted(ORACLES) == NAMES


def test_output_at_each_rank(name, rank):
    layer, x = build(name), an_input(rank)
    torch.testing.assert_close(layer(x), expected(name, layer, x), rtol=1e-12, atol=1e-12)


def test_output_with_keywords(name, keywords):
    layer, x = build(name, **keywords), an_input(4)
    if keywords.get("channel_dim") == -1:
        x = x.movedim(1, -1)
    torch.testing.assert_close(layer(x), expected(name, layer, x, **keywords), rtol=1e-12, atol=1e-12)


def test_output_without_affine(normalizer):
    if "affine" not in normzoo.info(normalizer).arguments:
        pytest.skip("has no such option")
    layer, x = build(normalizer, affine=False), an_input(4)
    assert {"weight", "bias"}.isdisjoint(dict(layer.named_parameters()))
    torch.testing.assert_close(layer(x), expected(normalizer, layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_output_in_other_dtypes(name, dtype):
    """As close as the dtype can write the output; a statistic in half precision would be off by far more."""
    layer, x = build(name, dtype), an_input(4, dtype, samples=16, side=8)
    y = layer(x)
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected(name, layer, x), rtol=4 * step, atol=4 * step)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_on_float32_parameters(name, dtype):
    layer, x = build(name, torch.float32), an_input(4, dtype, samples=16, side=8)
    y = layer(x)
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected(name, layer, x), rtol=4 * step, atol=4 * step)


def test_a_large_offset_leaves_the_output(normalizer):
    """At x + 1e6 float32 has steps of 1/16: exact from scratch, within a kernel's rounding if fused.

    torch's kernels compute x · scale + shift, whose two terms are of the size of the offset.
    """
    layer, x = build(normalizer, torch.float32), an_input(4, torch.float32) + 1e6
    y = expected(normalizer, layer, x)
    scale = ((y.amax() - y.amin()) / (x.amax() - x.amin()).double()).item()
    # In one process, with no weight before it, or for each part, these are the fused batch norm.
    alone = ("sync_batch_norm", "cross_iteration_batch_norm", "split_batch_norm")
    fused = normzoo.info(normalizer).fused or normalizer in alone
    # Where no mean is subtracted, the offset is in the output too.
    atol = 4 * 1e6 * torch.finfo(torch.float32).eps * scale if fused else 4e-6 * max(1.0, y.abs().max().item())
    torch.testing.assert_close(layer(x).double(), y, rtol=0, atol=atol)


def test_contiguous_is_kept(name):
    """But by the kernel of `layer_norm_channel`, which wants, and leaves, the channels last."""
    y, last = build(name)(an_input(4)), name in ("layer_norm_channel", "positional_norm")
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(name, keywords, training):
    layer = build(name, **keywords).train(training)
    before = copy.deepcopy(dict(layer.named_buffers()))
    x = an_input(4, samples=0)
    x = (x.movedim(1, -1) if keywords.get("channel_dim") == -1 else x).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad.shape == x.shape
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in layer.parameters())
    for key, value in layer.named_buffers():
        assert key.endswith("num_batches_tracked") or torch.equal(value, before[key]), (
            "an empty batch has no statistics"
        )


def test_constant_input_gives_the_bias(standardizer):
    layer = build(standardizer)
    for key, parameter in layer.named_parameters():
        if key.endswith(".bias"):
            parameter.data.copy_(layer.bias)
    y = layer(torch.full((6, CHANNELS, 3, 3), 3.0, dtype=torch.float64))
    torch.testing.assert_close(y, layer.bias.view(-1, 1, 1).expand_as(y), rtol=0, atol=1e-12)
