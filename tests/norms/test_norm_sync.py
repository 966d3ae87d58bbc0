"""Batch norm across processes against one process that holds all samples."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import normzoo
from normzoo.norms._kernels.sum_across_ranks import sum_across_ranks
from normzoo.norms._standardize import standardize
from tests.norms.norm_cases import CHANNELS, an_input, build
from tests.norms.processes import in_processes

pytestmark = pytest.mark.ddp


def two_steps(layer, batches, weights):
    """Outputs, input gradients, parameter gradients, buffers: after two steps of training."""
    results = []
    for x, g in zip(batches, weights, strict=True):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        results += [y.detach(), leaf.grad]
    return results, [p.grad for p in layer.parameters()], dict(layer.named_buffers())


def on_a_rank(rank, layer, batches, weights, sizes):
    share = [x.split(sizes)[rank] for x in (*batches, *weights)]
    return two_steps(layer, share[:2], share[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keywords", [{}, {"momentum": None}], ids=str)
@pytest.mark.parametrize("sizes", [(4, 4), (5, 2), (0, 6), (1, 0, 4)], ids=str)
def test_equals_one_process(tmp_path, sizes, keywords, dtype):
    """Even, uneven and empty ranks: outputs, all gradients and running statistics, against float64."""
    layer = build("sync_batch_norm", dtype, **keywords)
    reference = build("batch_norm", **keywords)
    reference.load_state_dict(layer.state_dict())
    batches, weights = ([an_input(4, dtype, samples=sum(sizes)) for _ in range(2)] for _ in range(2))
    expected, gradients, buffers = two_steps(reference, [x.double() for x in batches], [g.double() for g in weights])

    ranks = in_processes(len(sizes), tmp_path, on_a_rank, layer, batches, weights, sizes)

    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    for i, value in enumerate(expected):
        torch.testing.assert_close(torch.cat([results[i] for results, _, _ in ranks]).double(), value, **tolerance)
    for i, value in enumerate(gradients):
        torch.testing.assert_close(sum(parameters[i].double() for _, parameters, _ in ranks), value, **tolerance)
    for key, value in buffers.items():
        for _, _, state in ranks:
            assert torch.equal(state[key], ranks[0][2][key]), "the ranks' statistics differ"
        torch.testing.assert_close(ranks[0][2][key].to(value.dtype), value, **tolerance)


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_equals_one_process_at_other_ranks(tmp_path, rank):
    batches, weights = ([an_input(rank) for _ in range(2)] for _ in range(2))
    layer = build("sync_batch_norm", affine=False)
    expected, _, _ = two_steps(build("batch_norm", affine=False), batches, weights)
    ranks = in_processes(2, tmp_path, on_a_rank, layer, batches, weights, (2, 4))
    for i, value in enumerate(expected):
        torch.testing.assert_close(torch.cat([results[i] for results, _, _ in ranks]), value)


def test_a_large_offset_on_one_rank(tmp_path):
    """The ranks' means lie 1e4 apart: float32 gives what float64 does."""
    layer = build("sync_batch_norm", torch.float32)
    reference = build("batch_norm")
    reference.load_state_dict(layer.state_dict())
    x = an_input(4, torch.float32)
    x[2:] += 1e4
    g = torch.randn_like(x)
    expected, _, _ = two_steps(reference, [x.double()] * 2, [g.double()] * 2)
    ranks = in_processes(2, tmp_path, on_a_rank, layer, [x, x], [g, g], (2, 4))
    for i, value in enumerate(expected):
        y = torch.cat([results[i] for results, _, _ in ranks]).double()
        torch.testing.assert_close(y, value, rtol=2e-6, atol=2e-6 * value.abs().max().item())


def one_value_in_all(rank, size):
    layer = build("sync_batch_norm", torch.float32)
    assert layer.values_per_statistic((4, CHANNELS, 3, 3)) == 2 * 36
    try:
        layer(torch.randn(size if rank == 0 else 0, CHANNELS, 1, 1))
    except ValueError as refusal:
        return str(refusal)
    return layer.running_var.isfinite().all() and layer.num_batches_tracked.item()


def test_one_value_in_all_processes_is_refused_on_each(tmp_path):
    refusals = in_processes(2, tmp_path, one_value_in_all, 1)
    assert all("a single value" in refusal for refusal in refusals)


def test_no_value_in_any_process_leaves_the_statistics(tmp_path):
    assert in_processes(2, tmp_path, one_value_in_all, 0) == [0, 0]


def a_group_of_two(rank, batches):
    groups = [dist.new_group([0, 1]), dist.new_group([2])]
    layer = normzoo.create("sync_batch_norm", CHANNELS, process_group=groups[rank // 2]).double()
    y = layer(batches[rank])
    layer.eval()
    return y.detach(), layer(batches[rank]).detach(), layer.running_mean


def test_process_group(tmp_path):
    """Ranks 0 and 1 share statistics, rank 2 has its own; in evaluation none waits for another."""
    batches = [an_input(4) for _ in range(3)]
    ranks = in_processes(3, tmp_path, a_group_of_two, batches)
    for members in ([0, 1], [2]):
        reference = normzoo.create("batch_norm", CHANNELS).double()
        x = torch.cat([batches[r] for r in members])
        torch.testing.assert_close(torch.cat([ranks[r][0] for r in members]), reference(x).detach())
        torch.testing.assert_close(torch.cat([ranks[r][1] for r in members]), reference.eval()(x).detach())


def second_derivatives(rank, batches):
    def penalty(x, total=lambda s: s, **group):
        x_hat, mean, var, _ = standardize(x, (0, 2, 3), 1e-5, **group)
        loss = total(x_hat.pow(3).sum()) + (mean.square() * var).sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return gradient

    world = dist.group.WORLD
    leaf = batches[rank].clone().requires_grad_()
    # Each rank's loss counts mean and var, which all share, once over: weigh them down.
    x_hat, mean, var, _ = standardize(leaf, (0, 2, 3), 1e-5, group=world)
    loss = x_hat.pow(3).sum() + (mean.square() * var).sum() / len(batches)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), leaf)

    everything = torch.cat(batches).requires_grad_()
    whole = penalty(everything)
    (expected,) = torch.autograd.grad(whole.square().sum(), everything)
    return gradient.detach(), whole.detach(), second, expected


def test_can_be_differentiated_twice_across_processes(tmp_path):
    batches = [an_input(4, samples=samples) for samples in (2, 3)]
    ranks = in_processes(2, tmp_path, second_derivatives, batches)
    torch.testing.assert_close(torch.cat([r[0] for r in ranks]), ranks[0][1])
    torch.testing.assert_close(torch.cat([r[2] for r in ranks]), ranks[0][3])


def kernel_and_equation(rank, batches):
    found = []
    for function in (standardize, standardize.__wrapped__):
        leaf = batches[rank].clone().requires_grad_()
        x_hat, mean, var, n = function(leaf, (0, 2, 3), 1e-5, group=dist.group.WORLD)
        (torch.sin(x_hat).sum() + (mean * var).sum()).backward()
        found.append([x_hat.detach(), mean.detach(), var.detach(), n.detach(), leaf.grad])
    return found


def test_the_kernel_is_the_equation_across_processes(tmp_path):
    batches = [an_input(4, samples=samples) for samples in (2, 0, 3)]
    for kernel, equation in in_processes(3, tmp_path, kernel_and_equation, batches):
        torch.testing.assert_close(kernel, equation)


def a_sum(rank, values):
    leaf = values[rank].clone().requires_grad_()
    sum_across_ranks(leaf, dist.group.WORLD).mul(rank + 1).sum().backward()
    return leaf.grad


def test_gradient_of_a_sum_is_the_sum_of_gradients(tmp_path):
    for gradient in in_processes(2, tmp_path, a_sum, torch.randn(2, 3)):
        assert torch.equal(gradient, torch.full((3,), 3.0))


def small_model(norm, **keywords):
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3),
        normzoo.create(norm, CHANNELS, **keywords),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 4),
    ).double()


def sgd_steps(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for images, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


def data_parallel(rank, model, x, y, world):
    """What `trainer.devices = world` does: rank r of k takes samples r, r + k, …, and gradients are averaged."""
    model = DistributedDataParallel(model, broadcast_buffers=False)
    sgd_steps(model, x[:, rank::world], y[:, rank::world])
    return model.module.state_dict()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("norms", [("batch_norm", "ghost_batch_norm"), ("sync_batch_norm", "batch_norm")], ids=str)
def test_data_parallel_training_equals_one_process(tmp_path, norms, world):
    """Local batch norm on k ranks of 4 is `ghost_batch_norm(group_size=4)`, sync batch norm is `batch_norm` on 4 k."""
    across, alone = norms
    x, y = torch.randn(3, 4 * world, 3, 6, 6, dtype=torch.float64), torch.randint(4, (3, 4 * world))
    model = small_model(across)
    reference = small_model(alone, **({"group_size": 4} if alone == "ghost_batch_norm" else {}))
    reference.load_state_dict(copy.deepcopy(model.state_dict()))
    expected = sgd_steps(reference, x, y)
    ranks = in_processes(world, tmp_path, data_parallel, model, x, y, world)
    for key, value in expected.items():
        if "running" in key:
            torch.testing.assert_close(torch.stack([state[key] for state in ranks]).mean(0), value)
        else:
            for state in ranks:
                torch.testing.assert_close(state[key], value)
