"""Split batch norm is a batch norm for each part of the batch, and the first of them in evaluation."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from tests.norms.norm_cases import CHANNELS, an_input, build


def parts_of(layer):
    """The batch norms of torch's that it stands for, with their state."""
    main = {key: value for key, value in layer.state_dict().items() if not key.startswith("aux_bn")}
    states = [main, *(aux.state_dict() for aux in layer.aux_bn)]
    norms = [nn.BatchNorm2d(CHANNELS, track_running_stats=layer.track_running_stats).double() for _ in states]
    for norm, state in zip(norms, states, strict=True):
        norm.load_state_dict(state)
    return norms


def gradients(layer):
    return [parameter.grad for _, parameter in layer.named_parameters()]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("splits", "sizes"), [(2, (3, 3)), (2, (4, 3)), (3, (2, 2, 2)), (3, (3, 3, 2)), (4, (1, 1))])
def test_is_a_batch_norm_for_each_part(splits, sizes, last):
    layer, x = build("split_batch_norm", num_splits=splits), an_input(4, samples=sum(sizes))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    norms, g = parts_of(layer), torch.randn_like(x)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(one)
    y.backward(g)
    expected = torch.cat([norm(part) for norm, part in zip(norms, other.split(sizes), strict=False)])
    expected.backward(g)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(one.grad, other.grad)
    used = norms[: len(sizes)]
    torch.testing.assert_close(gradients(layer)[: 2 * len(used)], [p.grad for n in used for p in n.parameters()])
    for norm, own in zip(used, [layer, *layer.aux_bn], strict=False):
        torch.testing.assert_close(own.running_mean, norm.running_mean)
        torch.testing.assert_close(own.running_var, norm.running_var)


def test_evaluation_is_that_of_the_first_part():
    layer = build("split_batch_norm")
    layer(an_input(4))
    main = build("batch_norm").eval()
    missing, unexpected = main.load_state_dict(layer.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith("aux_bn.0.") for key in unexpected)
    x = an_input(4, samples=5)
    torch.testing.assert_close(layer.eval()(x), main(x))


def test_evaluation_without_running_statistics_takes_the_batch():
    layer, x = build("split_batch_norm", track_running_stats=False).eval(), an_input(4)
    torch.testing.assert_close(layer(x), parts_of(layer)[0].train()(x))


@pytest.mark.parametrize("splits", [2, 3])
def test_agrees_with_timm(splits):
    """Three training steps on its split batch norm, state dict included; it refuses a batch that does not divide."""
    split_batchnorm = pytest.importorskip("timm.layers.split_batchnorm")
    theirs = split_batchnorm.SplitBatchNorm2d(CHANNELS, num_splits=splits).double()
    ours = build("split_batch_norm", num_splits=splits)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for training in (True, True, True, False):
        x = an_input(4)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_a_part_of_one_value_is_refused():
    layer = build("split_batch_norm")
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"got the shape \(3, 8, 1, 1\), which leaves a single value"):
        layer(an_input(4, samples=3, side=1))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert layer(an_input(4, samples=4, side=1)).isfinite().all()


@pytest.mark.parametrize(("samples", "count"), [(0, 0), (1, 15), (2, 15), (4, 30), (5, 30), (64, 480)])
def test_values_per_statistic(samples, count):
    layer = normzoo.create("split_batch_norm", CHANNELS)
    assert layer.values_per_statistic((samples, CHANNELS, 3, 5)) == count


def test_a_single_part_is_refused():
    with pytest.raises(ValueError, match="num_splits is the number of parts of a batch, 2 or more; got 1"):
        normzoo.create("split_batch_norm", CHANNELS, num_splits=1)
