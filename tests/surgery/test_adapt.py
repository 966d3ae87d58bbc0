"""Adapting to shifted data, by hand and by each method."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.adapt import adapt


def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    net(torch.randn(64, 3, dtype=torch.float64))
    return net.eval()


def shifted() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 * torch.randn(size, 3, generator=generator, dtype=torch.float64) + 5 for size in (8, 6)]


def changed(net: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize(("method", "alpha"), [("adabn", 0.0), ("blend", 0.25), ("blend", 1.0)])
def test_statistics_are_those_of_the_new_data_or_a_blend(method, alpha):
    net = model()
    before = copy.deepcopy(net.state_dict())
    assert adapt(net, shifted(), method=method, alpha=alpha) is net
    y = net[0](torch.cat(shifted()))
    for name, new in (("running_mean", y.mean(0)), ("running_var", y.var(0))):
        expected = alpha * before[f"1.{name}"] + (1 - alpha) * new
        torch.testing.assert_close(net[1].get_buffer(name), expected.detach())
    assert changed(net, before) <= {"1.running_mean", "1.running_var"}
    assert not net.training


def test_tent_lowers_the_entropy_by_weight_and_bias_alone():
    net = model()
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    before = copy.deepcopy(net.state_dict())

    def entropy(net):
        logits = net(torch.cat(shifted()))
        return float(-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean().detach())

    adabn = adapt(copy.deepcopy(net), shifted())
    adapt(net, shifted() * 20, method="tent", lr=0.01)
    assert entropy(net) < entropy(adabn) - 0.02
    assert changed(net, before) == {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert net[3].weight.grad.all()
    assert net[1].weight.grad is None
    torch.testing.assert_close(net[1].running_mean, adabn[1].running_mean)


@pytest.mark.parametrize("method", ["adabn", "blend", "tent"])
def test_nothing_has_changed_when_a_batch_raises(method):
    net = model()
    before = copy.deepcopy(net.state_dict())

    def loader():
        yield shifted()[0]
        raise OSError("broken file")

    with pytest.raises(OSError, match="broken file"):
        adapt(net, loader(), method=method)
    assert not changed(net, before)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("method", ["adabn", "blend", "tent"])
def test_a_loader_that_is_shorter_than_asked_is_told_of(method):
    with pytest.warns(UserWarning, match="adapt: asked for 5 batches, but the loader has only 2") as told:
        adapt(model(), shifted(), method=method, batches=5)
    assert told[0].filename == __file__ or method == "tent"


BAD = {
    "unknown method 'norm'": lambda: adapt(model(), shifted(), method="norm"),
    "alpha is between 0 and 1": lambda: adapt(model(), shifted(), method="blend", alpha=2.0),
    "the loader is empty": lambda: adapt(model(), [], method="tent"),
    "adapt: batches=-1 must be a positive integer": lambda: adapt(model(), shifted(), method="tent", batches=-1),
    "^adapt: no layer of Linear has running statistics": lambda: adapt(nn.Linear(3, 2), shifted()),
    "^adapt: no layer of LayerNorm has running": lambda: adapt(nn.LayerNorm(3), shifted(), method="tent"),
    "^adapt: layer '' is on the meta device": lambda: adapt(nn.BatchNorm1d(3, device="meta"), shifted()),
    "these have none": lambda: adapt(nn.BatchNorm1d(3, affine=False).double(), shifted(), method="tent"),
    "needs logits": lambda: adapt(model(), shifted(), method="tent", forward=lambda net, x: {"y": net(x)}),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_requests_are_one_clear_error(said):
    with pytest.raises(normzoo.UserError, match=said):
        BAD[said]()
