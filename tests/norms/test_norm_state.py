"""State that training reads: right under activation checkpointing, after an overflow, at any scale of the loss."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normzoo
from normzoo._conformance.subject import Subject, same_named
from normzoo._conformance.training import gradients
from normzoo.testing import checks
from tests.norms.norm_cases import CHANNELS, an_input

# Past the steps in which the state has no part yet.
SETTLED = {
    "power_norm": {"warmup_steps": 0},
    "moving_average_batch_norm": {"warmup_steps": 0, "window": 3},
    "batch_renorm": {"warmup_steps": 0, "r_max_steps": 1, "d_max_steps": 1},
    "batch_channel_norm": {},
    "online_norm": {"momentum": 0.1, "backward_momentum": 0.1},
}
OF_GRADIENTS = ["power_norm", "moving_average_batch_norm", "online_norm"]
KEYWORDS = {
    "conditional_batch_norm": {"num_classes": 3},
    "domain_specific_batch_norm": {"num_domains": 2},
    "spade": {"label_channels": 3},
    "cross_iteration_batch_norm": {"window": 1},  # which is refused otherwise
}
WITH_STATE = [
    *((name, KEYWORDS.get(name, {})) for name in normzoo.list_norms() if normzoo.info(name).state),
    ("instance_norm", {"track_running_stats": True}),
    ("batch_norm", {"momentum": None}),
    ("ghost_batch_norm", {"group_size": 2}),
]


def settled(norm, channels=CHANNELS, **keywords):
    layer = normzoo.create(norm, channels, **SETTLED[norm], **keywords).double()
    for _ in range(3):
        layer(an_input(4, channels=channels).requires_grad_()).square().sum().backward()
    return layer


def state_of_all(*layers):
    return [dict(layer.named_buffers()) for layer in layers]


@pytest.mark.parametrize("norm", SETTLED)
@pytest.mark.parametrize("check", ["survives_overflow", "follows_loss_scale", "recomputes"])
def test_state_that_has_settled(norm, check):
    (one,) = [each for each in checks(normzoo.factory(norm, **SETTLED[norm])) if str(each) == check]
    one()


@pytest.mark.parametrize(("norm", "keywords"), WITH_STATE)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_batch_counts_once(norm, keywords, reentrant):
    subject = Subject(normzoo.factory(norm, **keywords), normzoo.info(norm))
    layer, _ = subject.modes()
    twin = copy.deepcopy(layer)
    for seed in range(2):
        gradients(layer, [subject.given(seed=seed)], lambda f, *given: checkpoint(f, *given, use_reentrant=reentrant))
        gradients(twin, [subject.given(seed=seed)], lambda f, *given: f(*given))
    same_named(*state_of_all(layer, twin), "after two steps", 1e-9)


@pytest.mark.parametrize("norm", SETTLED)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_one_layer_at_two_places_is_recomputed(norm, reentrant, nested):
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1).double(), layer := settled(norm), nn.Tanh(), layer)
    twin, x = copy.deepcopy(model), an_input(4)

    def again(f, *given):
        return checkpoint(f, *given, use_reentrant=reentrant)

    for _ in range(2):  # steps over the same batch
        actual = gradients(model, [(x,)], (lambda f, *given: again(again, f, *given)) if nested else again)
        torch.testing.assert_close(actual, gradients(twin, [(x,)], lambda f, *given: f(*given)))
    same_named(*state_of_all(model, twin), "after two steps", 1e-9)


@pytest.mark.parametrize("norm", SETTLED)
def test_equal_batches_wait_for_their_backward(norm):
    layer = settled(norm)
    twin, x = copy.deepcopy(layer), an_input(4).requires_grad_()
    losses = [checkpoint(layer, x, use_reentrant=False).pow(3).sum() for _ in range(2)]
    expected = [twin(x).pow(3).sum() for _ in range(2)]
    for loss, other in zip(reversed(losses), reversed(expected), strict=True):
        torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(other, x))


@pytest.mark.parametrize("norm", SETTLED)
def test_a_forward_that_is_recomputed_over_another_batch_is_refused(norm):
    layer = settled(norm)
    x = an_input(4).requires_grad_()
    function = nn.Sequential(nn.Dropout(), layer)
    y = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    with pytest.raises(RuntimeError, match=rf"{type(layer).__name__}\(.*keep preserve_rng_state=True"):
        y.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "around"), [("batch_renorm", False), ("power_norm", True), ("spectral_norm", True)])
def test_a_compiled_forward_is_not_recomputed(norm, around):
    if norm == "spectral_norm":
        layer = normzoo.create(norm, nn.Conv2d(CHANNELS, CHANNELS, 1)).double()
    else:
        layer = settled(norm)
    compiled = partial(torch.compile, backend="aot_eager")
    model = nn.Sequential(layer, nn.Tanh())
    if around:
        run = compiled(lambda x: checkpoint(model, x, use_reentrant=False))
    else:
        run = partial(checkpoint, compiled(model), use_reentrant=False)
    x = an_input(4).requires_grad_()
    with pytest.raises(
        RuntimeError, match=rf"({type(layer).__name__}|{norm}) has state .* leave this layer out of what"
    ):
        run(x).sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("with_convolution", [False, True])
def test_statistics_that_are_differentiated_in_the_forward_are_not_recomputed(reentrant, with_convolution):
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 1).double()
    layer = normzoo.create("cross_iteration_batch_norm", CHANNELS).double()
    x = an_input(4).requires_grad_()
    function = nn.Sequential(convolution, layer) if with_convolution else layer
    x = x if with_convolution else convolution(x)
    with pytest.raises(RuntimeError, match=r"CrossIterationBatchNorm\(.*leave this layer .* out of what is checkp"):
        checkpoint(function, x, use_reentrant=reentrant).square().sum().backward()


@pytest.mark.parametrize("norm", SETTLED)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_batch_that_is_not_finite_leaves_no_trace(norm, bad):
    layer = settled(norm)
    before = copy.deepcopy(layer.state_dict())
    x = an_input(4)
    x[0, 0, 0, 0] = bad
    y = layer(x.requires_grad_())
    assert not y.isfinite().all()
    y.sum().backward()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_a_batch_that_is_not_finite_stays_out_of_the_window():
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 1).double()
    layer = normzoo.create("cross_iteration_batch_norm", CHANNELS).double()
    for factor in (1.0, torch.inf, 1.0):
        y = layer(convolution(an_input(4) * factor))
        assert y.isfinite().all() == (factor == 1)


@pytest.mark.parametrize("norm", OF_GRADIENTS)
def test_a_gradient_scaler_changes_no_step(norm):
    plain = nn.Sequential(nn.Linear(CHANNELS, CHANNELS).double(), settled(norm))
    scaled = copy.deepcopy(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    one, other = (torch.optim.SGD(model.parameters(), lr=0.01) for model in (plain, scaled))
    for _ in range(6):
        x = an_input(2)
        scaled[1].loss_scale = scaler.get_scale()
        one.zero_grad()
        other.zero_grad()
        plain(x).pow(3).mean().backward()
        scaler.scale(scaled(x).pow(3).mean()).backward()
        one.step()
        scaler.step(other)
        scaler.update()
    assert scaler.get_scale() == 2.0**13
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict())


@pytest.mark.parametrize("norm", OF_GRADIENTS)
def test_float16_autocast_without_the_scale_of_the_loss_is_refused(norm):
    layer, x = settled(norm).float(), an_input(4, torch.float32)
    with torch.autocast("cpu", torch.float16):
        with pytest.raises(RuntimeError, match=rf"{type(layer).__name__}\(.*set its attribute loss_scale to scaler"):
            layer(x)
        with torch.no_grad():
            layer(x)
        layer.loss_scale = 1.0
        layer(x)
