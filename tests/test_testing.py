"""The conformance suite itself: what it finds, what it says, what it skips."""

import unittest

import pytest
import torch
from torch import nn

import normzoo
from normzoo._conformance import SLOW
from normzoo.testing import check_norm, checks


class Rms(nn.Module):
    """A correct norm, to break: each position is divided by the root mean square of its channels."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def normalize(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * (wide.square().mean(1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype)

    def forward(self, x):
        if not 2 <= x.dim() <= 5:
            raise ValueError(f"Rms takes (N, C, *), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"Rms takes floating-point numbers, got {x.dtype}")
        return self.normalize(x) * self.weight.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def test_a_correct_norm_passes_and_says_what_was_skipped():
    outcome = check_norm(Rms, batch_dependent=False, reduces_over="C")
    skipped = {check: said for check, said in outcome.items() if said != "passed"}
    assert skipped.pop("agrees_with_reference") == "skipped: no reference is given"
    assert set(skipped) <= {"exports_to_onnx"}
    assert len(outcome) == len(checks(Rms, batch_dependent=False)) > 20


def test_a_fact_that_is_not_stated_is_not_checked():
    (check,) = [each for each in checks(Rms, batch_dependent=False) if str(each) == "reduces_as_stated"]
    with pytest.raises(unittest.SkipTest, match="reduces_over is not stated"):
        check()


class Broken(Rms):
    """What is common to the norms that fail: what they do instead."""


class UsesBatch(Broken):
    def normalize(self, x):
        return super().normalize(x) + 1e-6 * x.mean()


class WritesABuffer(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("calls", torch.zeros(()))

    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "calls"):
            self.calls.zero_()

    def forward(self, x):
        self.calls.add_(1)
        return super().forward(x)


class DifferentInEvaluation(Broken):
    def normalize(self, x):
        return super().normalize(x) * (1 if self.training else 2)


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(x, factor, backward_once):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor, ctx.backward_once = inputs[1:]

    @staticmethod
    def backward(ctx, grad):
        return (grad.detach() if ctx.backward_once else grad * ctx.factor), None, None


class WrongGradient(Broken):
    def normalize(self, x):
        return Wrong.apply(super().normalize(x), 1.001, False)


class WrongSecondDerivative(Broken):
    def normalize(self, x):
        return Wrong.apply(super().normalize(x), 1, True)


class UnusedParameter(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.bias = nn.Parameter(torch.zeros(num_features))

    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "bias"):
            nn.init.zeros_(self.bias)


class FrozenParameter(UnusedParameter):
    """The bias takes part in the output, and is a constant to the gradient."""

    def forward(self, x):
        return super().forward(x) + self.bias.detach().to(x.dtype).view(-1, *[1] * (x.dim() - 2))


class Random(Broken):
    def normalize(self, x):
        return super().normalize(x) + 1e-3 * torch.rand_like(x)


class RandomInTraining(Broken):
    def normalize(self, x):
        torch.rand(1)
        return super().normalize(x)


class AlwaysFloat32(Broken):
    def normalize(self, x):
        return super().normalize(x.float())


class RefusesAutocast(Broken):
    def normalize(self, x):
        assert x.dtype == self.weight.dtype, "expected one dtype"
        return super().normalize(x)


class OnePass(Broken):
    def normalize(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x.square().mean(1, keepdim=True) - mean.square()).clamp(min=0)
        return (x - mean) * (var + 1e-5).rsqrt()


class OnePassInChannelsLast(OnePass):
    def normalize(self, x):
        return super().normalize(x) if x.stride(1) == 1 and x.dtype == torch.float32 else Broken.normalize(self, x)


class TakesWholeNumbers(Broken):
    def forward(self, x):
        return super().forward(x if x.is_floating_point() else x.real.float()).to(x.dtype)


class WritesInput(Broken):
    def forward(self, x):
        x.data.mul_(1 + 1e-9)
        return super().forward(x)


class KeepsAnOldBuffer(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(1)
        return super().forward(x) * self.scale.to(x.dtype)


class LosesFormat(Broken):
    def forward(self, x):
        return super().forward(x.contiguous())


class NeedsContiguous(Broken):
    def forward(self, x):
        return super().forward(x.view(x.shape[0], -1).view(x.shape))


class PoisonedByNothing(WritesABuffer):
    def forward(self, x):
        self.calls.copy_(x.detach().mean())
        return super().forward(x)


class UnguardedVariance(Broken):
    def values_per_statistic(self, shape):
        return shape[2:].numel()

    def normalize(self, x):
        dims = tuple(range(2, x.dim()))
        return x - x.mean(dims, keepdim=True) if dims else x * 0


class SilentRefusal(UnguardedVariance):
    def forward(self, x):
        if self.values_per_statistic(x.shape) == 1:
            raise ValueError("too few values")
        return super().forward(x)


class TakesAnything(Broken):
    def forward(self, x):
        return self.normalize(x.unsqueeze(1)).squeeze(1) if x.dim() == 1 else super().forward(x)


class ForgetsState(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.scale = 1.0

    def forward(self, x):
        self.scale = 2.0 if self.training else self.scale
        return super().forward(x) * self.scale


class CannotBePickled(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.identity = lambda x: x


class SharesItsWeight(Broken):
    def __deepcopy__(self, memo):
        twin = type(self)(len(self.weight))
        twin.weight = self.weight
        return twin.train(self.training)


class BreaksTheGraph(Broken):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


class BranchesOnData(Broken):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


class ChangesGradMode(Broken):
    def forward(self, x):
        y = super().forward(x)
        torch.set_grad_enabled(True)
        return y


class AveragesGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mean):
        ctx.mean = mean
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad - ctx.mean
        ctx.mean.copy_((grad.mean() + ctx.mean) / 2)
        return grad, None


class RemembersGradients(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        return super().forward(AveragesGradients.apply(x, self.mean))


class RemembersOutputs(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        y = super().forward(x) - self.mean
        self.mean.copy_(y.detach().mean())
        return y


class NeedsNumbers(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.eps = float(torch.ones(1))


class CannotBeReset(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x):
        return x * self.weight.view(-1, 1, 1)


class ResetsToSomethingElse(Broken):
    def __init__(self, num_features):
        super().__init__(num_features)
        nn.init.constant_(self.weight, 0.5)


@pytest.mark.parametrize(
    ("check", "norm", "said"),
    [
        ("facts_hold", UsesBatch, "batch_dependent is True, and said to be False"),
        ("facts_hold", WritesABuffer, "training writes ['calls']; state is ()"),
        ("facts_hold", DifferentInEvaluation, "train_eval_differ is True, and said to be False"),
        ("independent_of_batch", UsesBatch, "one sample of six: the output differs"),
        ("trains_its_parameters", UnusedParameter, "the gradient of bias is zero"),
        ("trains_its_parameters", FrozenParameter, "the gradient of bias is zero"),
        ("gradcheck", FrozenParameter, "Jacobian mismatch"),
        ("gradcheck", WrongGradient, "Jacobian mismatch"),
        ("gradgradcheck", WrongSecondDerivative, ""),
        ("evaluates_deterministically", Random, "a second call: the output differs"),
        ("evaluates_deterministically", WritesABuffer, "calls is written"),
        ("keeps_dtype", AlwaysFloat32, "torch.float16 gives [torch.float32, "),
        ("keeps_dtype", OnePass, "torch.float16: the output differs"),
        ("autocast", RefusesAutocast, "expected one dtype"),
        (
            "huge_offset",
            OnePass,
            "torch.float32 of mean 10000 and standard deviation 2, contiguous, rank 4",
        ),
        ("huge_offset", OnePassInChannelsLast, "torch.float32 of mean 10000 and standard deviation 2, channels_last"),
        ("refuses_other_numbers", TakesWholeNumbers, "torch.uint8 is not refused, training=True"),
        ("leaves_inputs_alone", WritesInput, "the input is written"),
        ("leaves_inputs_alone", KeepsAnOldBuffer, "modified by an inplace operation"),
        ("keeps_channels_last", LosesFormat, "the output of rank 4 has the strides"),
        ("takes_any_strides", NeedsContiguous, "view"),
        ("empty_batch", PoisonedByNothing, "not finite"),
        ("one_sample", UnguardedVariance, "(1, 8) leaves 1 value to a statistic, and is not refused"),
        ("one_sample", SilentRefusal, "does not name the shape: too few values"),
        ("ranks_as_stated", TakesAnything, "(8,), of rank 1, is not refused; ranks is (2, 3, 4, 5)"),
        ("survives_overflow", RemembersGradients, "mean is not finite after a gradient of inf"),
        ("follows_loss_scale", RemembersGradients, "a loss times 64.0: the gradient of the input differs"),
        ("recomputes", RemembersOutputs, "use_reentrant=False: the gradient of the input differs"),
        ("survives_saving", ForgetsState, "state_dict: the output differs"),
        ("pickles", CannotBePickled, "pickle"),
        ("survives_saving", SharesItsWeight, "deepcopy shares"),
        ("compiles", BreaksTheGraph, "Unsupported"),
        ("compiles", BranchesOnData, ""),
        ("exports", BranchesOnData, ""),
        ("replicas_under_vmap", BranchesOnData, ""),
        ("replicas_under_vmap", WrongGradient, ""),
        ("leaves_global_state_alone", RandomInTraining, "the random number generator is advanced"),
        ("leaves_global_state_alone", ChangesGradMode, "grad mode is changed"),
        ("meta_device", NeedsNumbers, ""),
        ("meta_device", CannotBeReset, "CannotBeReset has no reset_parameters()"),
        ("meta_device", ResetsToSomethingElse, "reset: weight differs"),
    ],
)
def test_each_fault_is_found_and_named(check, norm, said):
    stated = {"minimum_count": 2} if issubclass(norm, UnguardedVariance) else {}
    (one,) = [each for each in checks(norm, batch_dependent=False, **stated) if str(each) == check]
    with pytest.raises(AssertionError) as caught:
        one()
    first = str(caught.value).splitlines()[0]  # all that pytest's summary shows
    assert first.startswith(f"{norm.__name__} fails {check}: ")
    assert said in first


class WithoutEps(Rms):
    def normalize(self, x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)


class OverPositions(Rms):
    """An instance norm without a mean."""

    dims = (2, 3)

    def normalize(self, x):
        return x * (x.square().mean([d for d in self.dims if d < x.dim()], keepdim=True) + 1e-5).rsqrt()

    def values_per_statistic(self, shape):
        return 12


class OverTheSample(OverPositions):
    dims = (1, 2, 3)

    def values_per_statistic(self, shape):
        return shape[2:].numel()


class OverChannelsAndOverPositions(Rms):
    """Two statistics, where one over both dimensions would move the outputs of other channels at other positions."""

    def normalize(self, x):
        over_positions = x.square().mean(tuple(range(2, x.dim())), keepdim=True)
        return super().normalize(x) * (over_positions + 1).rsqrt()


class Rectified(Rms):
    def normalize(self, x):
        return super().normalize(x).relu()


class Remembers(Rms):
    past = 0.0

    def normalize(self, x):
        y = super().normalize(x) * (1 + self.past)
        if self.training:
            self.past = x.detach().mean()
        return y


class RefusesUnsaid(Rms):
    def forward(self, x):
        if x[0, 0].numel() == 1:
            raise ValueError(f"too few values in {tuple(x.shape)}")
        return super().forward(x)


class ConstantOfOneValue(Rms):
    def normalize(self, x):
        dims = tuple(range(2, x.dim()))
        centred = x - x.mean(dims, keepdim=True)
        return centred * (centred.square().mean(dims, keepdim=True) + 1e-5).rsqrt()


WRONG_FACTS = [
    (WithoutEps, {}, "constant_input: an input of 0 everywhere, training=True, gives an output that is not finite"),
    (Rms, {"reduces_over": "C, *"}, "no value moves outputs of other positions and other channels"),
    (Rms, {"reduces_over": "*"}, "a value moves outputs of other channels, and reduces_over='*' does not name C"),
    (Rms, {"reduces_over": "-"}, "a value moves outputs of other channels, and reduces_over='-' does not name C"),
    (Rms, {"reduces_over": "C and N, *"}, "no value moves outputs of other positions and other samples"),
    (OverPositions, {"reduces_over": "C, *"}, "no value moves outputs of other positions and other channels"),
    (OverPositions, {"reduces_over": "C/G, *"}, "no value moves outputs of other positions and other channels"),
    (OverPositions, {"reduces_over": "N, *"}, "no value moves outputs of other positions and other samples"),
    (OverChannelsAndOverPositions, {"reduces_over": "C"}, "a value moves outputs of other positions"),
    (
        OverTheSample,
        {"reduces_over": "C, *"},
        "values_per_statistic((6, 8, 4, 3)) is 12, and reduces_over='C, *' means 96",
    ),
    (UsesBatch, {"reduces_over": "C", "batch_dependent": True}, "a value moves outputs of other positions"),
    (Rms, {"fused": True}, "fused is said to be True, and no norm kernel of torch's is called"),
    (Rms, {"includes_activation": True}, "includes_activation is False, and said to be True"),
    (Rectified, {}, "of the outputs are 0, as by an activation; includes_activation is False"),
    (Remembers, {}, "a second forward in training gives another output"),
    (Rms, {"batch_dependent": True}, "batch_dependent is False, and said to be True"),
    (Rms, {"train_eval_differ": True}, "train_eval_differ is False, and said to be True"),
    (Rms, {"state": ("weight",)}, "training writes []; state is ('weight',)"),
    (Rms, {"ranks": (4,)}, "(6, 8), of rank 2, is not refused; ranks is (4,)"),
    (Rms, {"minimum_count": 2}, "minimum_count=2 needs a method values_per_statistic(shape), which is missing"),
    (RefusesUnsaid, {}, "(1, 8) is refused, with minimum_count=1 and None values a statistic: state minimum_count"),
    (ConstantOfOneValue, {}, "(1, 8, 1) gives the same whatever its values: state minimum_count, the fewest values"),
]


@pytest.mark.parametrize(("norm", "facts", "said"), WRONG_FACTS)
def test_a_fact_that_does_not_hold_is_named_in_the_first_line(norm, facts, said):
    about_facts = (
        "facts_hold",
        "reduces_as_stated",
        "bends_as_stated",
        "constant_input",
        "one_sample",
        "ranks_as_stated",
    )
    others = {str(check): "another" for check in checks(norm, batch_dependent=False) if str(check) not in about_facts}
    with pytest.raises(AssertionError) as caught:
        check_norm(norm, skip=others, **{"batch_dependent": False, **facts})
    assert said in str(caught.value).splitlines()[0]


def test_an_activation_that_bends_nothing_is_found():
    class Claims(Rms):
        includes_activation = True

    with pytest.raises(AssertionError, match="bends_as_stated: includes_activation is said to be True, and"):
        next(
            c for c in checks(Claims, batch_dependent=False, includes_activation=True) if str(c) == "bends_as_stated"
        )()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (OnePass, {"huge_offset", "keeps_dtype"}),
        (UnusedParameter, {"trains_its_parameters", "replicas_under_vmap"}),  # of which the latter does not say why
    ],
)
def test_the_rest_of_the_suite_is_content_with_a_single_fault(norm, found):
    """Which the others would not have found, then."""
    outcome = {}
    for check in checks(norm, batch_dependent=False):
        try:
            check()
        except unittest.SkipTest:
            continue
        except AssertionError:
            outcome[str(check)] = "fails"
    assert set(outcome) == found


def test_a_reference_is_compared_at_each_rank():
    def reference(x, layer):
        weight = layer.weight.detach().view(-1, *[1] * (x.dim() - 2)).numpy()
        x = x.numpy()
        return x / (((x**2).mean(1, keepdims=True) + 1e-5) ** 0.5) * weight

    assert check_norm(Rms, batch_dependent=False, reference=reference)["agrees_with_reference"] == "passed"
    (check,) = [
        each
        for each in checks(Rms, batch_dependent=False, reference=lambda x, layer: 1.001 * reference(x, layer))
        if str(each) == "agrees_with_reference"
    ]
    with pytest.raises(AssertionError, match="rank 2: the output differs"):
        check()


@pytest.mark.slow
def test_check_norm_reports_all_failures_at_once():
    with pytest.raises(AssertionError) as caught:
        check_norm(Random, batch_dependent=False, skip={"replicas_under_vmap": "draws random numbers"})
    said = str(caught.value)
    assert said.startswith("Random fails facts_hold: a second forward in training gives another output")
    assert "evaluates_deterministically" in said.splitlines()[0]
    assert "Random fails evaluates_deterministically: a second call: the output differs" in said
    assert "It asks: In evaluation the same input gives the same bits" in said
    assert "Random fails leaves_global_state_alone" in said
    assert "replicas_under_vmap" not in said


def test_a_check_is_skipped_with_its_reason():
    for check in checks("group_norm", skip={"gradgradcheck": "takes long"}):
        if str(check) == "gradgradcheck":
            with pytest.raises(unittest.SkipTest, match="takes long"):
                check()
    with pytest.raises(ValueError, match="unknown check 'gradgrad' in skip; checks: facts_hold, "):
        checks("group_norm", skip={"gradgrad": "misspelt"})


def test_fast_leaves_out_the_slow_checks_alone():
    every, fast = ([str(check) for check in checks("group_norm", fast=fast)] for fast in (False, True))
    assert fast == [name for name in every if name not in {check.__name__ for check in SLOW}]
    assert len(every) - len(fast) == len(SLOW)
    assert list(check_norm("group_norm", fast=True)) == fast
    assert checks("group_norm", fast=True, skip={"gradcheck": "is left out already"})


@pytest.mark.parametrize("norm", ["GN", normzoo.factory("group_norm", num_groups=2), type(normzoo.create("GN", 8))])
def test_a_registered_norm_brings_its_facts(norm):
    subject = checks(norm)[0].subject
    assert subject.info == normzoo.info("group_norm")
    assert isinstance(subject.layer(), nn.GroupNorm)
    assert checks(norm, minimum_count=3)[0].subject.info.minimum_count == 3


def test_a_norm_that_is_not_registered_needs_its_facts():
    with pytest.raises(TypeError, match="Rms is not registered: pass batch_dependent"):
        checks(Rms)
    with pytest.raises(TypeError, match=r"unknown fact 'rank' .did you mean 'ranks'"):
        checks(Rms, batch_dependent=False, rank=4)
    with pytest.raises(normzoo.UnknownNormError):
        checks("rmss")


def test_a_norm_that_needs_arguments_is_given_by_its_factory():
    with pytest.raises(TypeError, match="conditional_batch_norm needs num_classes; accepted: num_classes, eps"):
        checks("conditional_batch_norm")
    assert checks(normzoo.factory("conditional_batch_norm", num_classes=3))


def test_a_layer_of_torch_passes():
    check_norm(lambda channels: nn.LayerNorm(channels), batch_dependent=False, ranks=(2,))
