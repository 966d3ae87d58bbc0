"""Ghost batch norm is a loop of batch norm over its groups, in outputs, gradients and running statistics."""

import pytest
import torch
import torch.nn.functional as F

from tests.norms.norm_cases import an_input, build
from tests.norms.oracles import ghost_groups


def groups_in_a_row(samples, group_size):
    return [part.tolist() for part in torch.arange(samples).split(group_size)]


@pytest.mark.parametrize("contiguous", [False, True], ids=["dealt", "in a row"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("samples", [3, 4, 8, 11, 13])
@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 8])
def test_is_a_loop_over_groups(group_size, samples, last, contiguous):
    ghost = build("ghost_batch_norm", group_size=group_size, contiguous=contiguous)
    x = an_input(4, samples=samples)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    g = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    y = ghost(leaf)
    y.backward(g)

    loop_leaf = x.clone().requires_grad_()
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (ghost.weight, ghost.bias))
    looped, means, variances = torch.zeros_like(x), [], []
    for group in (groups_in_a_row if contiguous else ghost_groups)(samples, group_size):
        values = loop_leaf[group]
        looped = looped.index_add(0, torch.tensor(group), F.batch_norm(values, None, None, weight, bias, training=True))
        means.append(values.detach().mean((0, 2, 3)))
        variances.append(values.detach().var((0, 2, 3)))
    looped.backward(g)

    torch.testing.assert_close(y, looped)
    torch.testing.assert_close(leaf.grad, loop_leaf.grad)
    torch.testing.assert_close(ghost.weight.grad, weight.grad)
    torch.testing.assert_close(ghost.bias.grad, bias.grad)
    torch.testing.assert_close(ghost.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))
    assert ghost.num_batches_tracked == 1


def test_batches_of_any_size_before_a_backward():
    """The running statistics that a later forward moves are not part of an earlier one's graph."""
    layer = build("ghost_batch_norm", group_size=4)
    batches = [an_input(4, samples=samples) for samples in (3, 4, 8, 9)]
    one_by_one = sum(torch.autograd.grad(layer(x).pow(3).sum(), layer.weight)[0] for x in batches)
    sum(layer(x).pow(3).sum() for x in batches).backward()
    torch.testing.assert_close(layer.weight.grad, one_by_one)


@pytest.mark.parametrize("samples", [4, 8, 9])
def test_replicas_under_vmap_alone(samples):
    """Without a gradient, whose transform would stand between the layer and vmap."""
    replicas = [build("ghost_batch_norm", group_size=4) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(replicas)
    x = torch.stack([an_input(4, samples=samples) for _ in replicas])
    y = torch.vmap(lambda *given: torch.func.functional_call(replicas[0], given[:2], given[2:]))(parameters, buffers, x)
    for i, replica in enumerate(replicas):
        torch.testing.assert_close(y[i], replica(x[i]))
        torch.testing.assert_close({key: value[i] for key, value in buffers.items()}, dict(replica.named_buffers()))


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_any_rank_and_no_affine(rank):
    layer, x = build("ghost_batch_norm", group_size=3, affine=False), an_input(rank)
    y = layer(x)
    for group in ghost_groups(len(x), 3):
        values = x[group].transpose(0, 1).flatten(1)
        x_hat = (values - values.mean(1, True)) / (values.var(1, keepdim=True, correction=0) + layer.eps).sqrt()
        torch.testing.assert_close(y[group].transpose(0, 1).flatten(1), x_hat)


def test_groups_are_what_a_distributed_sampler_deals_out():
    sampler = torch.utils.data.DistributedSampler
    dealt = [list(sampler(range(12), num_replicas=3, rank=rank, shuffle=False)) for rank in range(3)]
    assert ghost_groups(12, 4) == dealt


def test_evaluation_takes_the_running_statistics():
    layer, x = build("ghost_batch_norm", group_size=2), an_input(4)
    layer(x)
    other = build("batch_norm").eval()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(x), other(x))


def test_evaluation_without_running_statistics_takes_the_groups():
    layer, x = build("ghost_batch_norm", group_size=2, track_running_stats=False), an_input(4)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_groups_in_contiguous_memory_are_a_view(monkeypatch):
    """One call of the kernel for all groups, on the memory of the input."""
    inputs, kernel = [], F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda x, *rest: inputs.append(x) or kernel(x, *rest))
    x = an_input(4, samples=8)
    build("ghost_batch_norm", group_size=2)(x)
    assert [(values.data_ptr(), values.shape) for values in inputs] == [(x.data_ptr(), (2, 32, 3, 3))]
