"""The conformance suite on norms that take a condition and on norms of weights."""

import unittest

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from normzoo.testing import check_norm, checks


class Film(nn.Module):
    """Correct: each sample divided by its root mean square, scaled by what its condition says."""

    def __init__(self, num_features: int, size: int = 4) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(num_features, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def example_condition(self, x):
        return torch.randn(len(x), self.size, device=x.device)

    def scale(self, x, condition):
        return (condition.to(self.weight.dtype) @ self.weight.T).to(x.dtype)

    def forward(self, x, condition):
        if not 2 <= x.dim() <= 5 or condition.shape[0] != x.shape[0]:
            raise ValueError(f"{tuple(x.shape)} and {tuple(condition.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"Film takes floating-point input, got {x.dtype}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        x_hat = (wide * (wide.square().mean(tuple(range(1, x.dim())), keepdim=True) + 1e-5).rsqrt()).to(x.dtype)
        return x_hat * self.scale(x, condition).view(*x.shape[:2], *[1] * (x.dim() - 2))


class OfClasses(Film):
    """Correct: a scale for each class."""

    def example_condition(self, x):
        return torch.randint(self.size, (len(x),), device=x.device)

    def scale(self, x, condition):
        return self.weight.T[condition].to(x.dtype)


class IgnoresTheCondition(Film):
    def scale(self, x, condition):
        return super().scale(x, torch.ones_like(condition))


class TakesTheFirstCondition(Film):
    def scale(self, x, condition):
        return super().scale(x, condition[:1].expand_as(condition))


class TakesAnyNumberOfConditions(Film):
    def forward(self, x, condition):
        return super().forward(x, condition[torch.arange(len(x)) % max(len(condition), 1)])


class DetachesTheCondition(Film):
    def scale(self, x, condition):
        return super().scale(x, condition + (condition - condition.detach()))


class WritesTheCondition(Film):
    def forward(self, x, condition):
        condition.data.mul_(1.001)
        return super().forward(x, condition)


@pytest.mark.slow
def test_conditional_norms_pass_with_a_condition_of_numbers_or_of_classes():
    for norm in (Film, OfClasses):
        outcome = check_norm(norm, kind="conditional", batch_dependent=False, reduces_over="C, *")
        skipped = {check: said for check, said in outcome.items() if said != "passed"}
        assert skipped.pop("agrees_with_reference") == "skipped: no reference is given"
        assert set(skipped) <= {"exports_to_onnx"}
        assert outcome["follows_the_condition"] == "passed"


@pytest.mark.parametrize(
    ("check", "norm", "said"),
    [
        ("follows_the_condition", IgnoresTheCondition, "another condition changes nothing"),
        ("follows_the_condition", TakesTheFirstCondition, "in another order: the output differs"),
        ("follows_the_condition", TakesAnyNumberOfConditions, "6 samples with 2 conditions are not refused"),
        ("facts_hold", TakesTheFirstCondition, "batch_dependent is True, and said to be False"),
        ("gradcheck", DetachesTheCondition, "Jacobian mismatch"),
        ("leaves_inputs_alone", WritesTheCondition, "the condition is written"),
    ],
)
def test_faults_with_the_condition_are_found(check, norm, said):
    assert said in failure(check, norm, kind="conditional")


@pytest.mark.slow
def test_a_reference_gets_the_condition():
    def reference(x, condition, layer):
        x_hat = x / (x.square().mean(tuple(range(1, x.dim())), keepdim=True) + 1e-5).sqrt()
        return x_hat * (condition @ layer.weight.T).view(*x.shape[:2], *[1] * (x.dim() - 2))

    outcome = check_norm(Film, kind="conditional", batch_dependent=False, reference=reference)
    assert outcome["agrees_with_reference"] == "passed"


class UnitRows(nn.Module):
    """Correct: each row of the weight has the length 1."""

    def forward(self, weight):
        return weight / torch.linalg.vector_norm(weight.flatten(1), dim=1).view(-1, *[1] * (weight.dim() - 1))


def unit_rows(module: nn.Module, *, rule: type[nn.Module] = UnitRows) -> nn.Module:
    parametrize.register_parametrization(module, "weight", rule())
    return module


class DetachedWeight(UnitRows):
    def forward(self, weight):
        return super().forward(weight.detach()) + 0 * weight


class KeepsTheFirstWeight(UnitRows):
    first = None

    def forward(self, weight):
        self.first = super().forward(weight).detach() if self.first is None else self.first
        return self.first + 1e-3 * (weight - weight.detach())


class WritesState(UnitRows):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight):
        if self.training:
            self.calls.add_(1)
        return super().forward(weight)


class RemovedToSomethingElse(UnitRows):
    def forward(self, weight):
        return super().forward(weight) * (2 if self.training or torch.is_grad_enabled() else 1)


def returns_another(module: nn.Module) -> nn.Module:
    return nn.Sequential(unit_rows(module))


def does_nothing(module: nn.Module) -> nn.Module:
    return module


def bias_too(module: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module, "bias", nn.Tanh())
    return unit_rows(module)


def without_bias(module: nn.Module) -> nn.Module:
    del module.bias
    module.bias = None
    return unit_rows(module)


@pytest.mark.slow
def test_a_norm_of_weights_passes_and_says_what_is_up_to_the_module():
    outcome = check_norm(unit_rows, kind="weight", batch_dependent=False)
    skipped = {check: said for check, said in outcome.items() if said != "passed"}
    assert skipped.pop("agrees_with_reference") == "skipped: no reference is given"
    assert "torch refuses: Serialization of parametrized modules" in skipped.pop("pickles")
    for check in ("huge_offset", "ranks_as_stated", "reduces_as_stated", "refuses_other_numbers"):
        assert "up to the module" in skipped.pop(check)
    assert set(skipped) <= {"exports_to_onnx"}
    for check in ("parametrizes_the_weight", "trains_its_parameters", "follows_its_parameters", "can_be_removed"):
        assert outcome[check] == "passed"


@pytest.mark.parametrize(
    ("check", "norm", "said"),
    [
        ("parametrizes_the_weight", returns_another, "another module is returned"),
        ("parametrizes_the_weight", does_nothing, "no parametrized weight"),
        ("parametrizes_the_weight", bias_too, "['bias', 'weight'] are parametrized"),
        ("parametrizes_the_weight", without_bias, "another parameter is gone"),
        ("trains_its_parameters", DetachedWeight, "the gradient of parametrizations.weight.original is zero"),
        ("follows_its_parameters", KeepsTheFirstWeight, "the weight stays as it was"),
        ("gradcheck", DetachedWeight, "Jacobian mismatch"),
        ("facts_hold", WritesState, "training writes ['calls']; state is ()"),
        ("can_be_removed", RemovedToSomethingElse, "the weight: the output differs"),
    ],
)
def test_faults_with_the_weight_are_found(check, norm, said):
    if isinstance(norm, type):
        rule = norm

        def norm(module):
            return unit_rows(module, rule=rule)

    assert said in failure(check, norm, kind="weight")


@pytest.mark.slow
def test_a_reference_gets_what_the_weight_is_computed_from():
    def reference(original, module):
        return original / original.flatten(1).square().sum(1).sqrt().view(-1, *[1] * (original.dim() - 1))

    options = {"kind": "weight", "batch_dependent": False}
    assert check_norm(unit_rows, reference=reference, **options)["agrees_with_reference"] == "passed"
    wrong = failure("agrees_with_reference", unit_rows, kind="weight", reference=lambda w, module: w)
    assert "rank 2: the output differs" in wrong


@pytest.mark.slow
def test_a_parametrization_of_several_tensors_gives_its_reference_all():
    def reference(originals, module):
        g, v = originals
        return g * v / v.flatten(1).square().sum(1).sqrt().view(-1, *[1] * (v.dim() - 1))

    wrong = {"gradgradcheck": "the second derivative of torch's kernel is wrong"}
    norm = nn.utils.parametrizations.weight_norm
    outcome = check_norm(norm, kind="weight", batch_dependent=False, reference=reference, skip=wrong)
    assert outcome["agrees_with_reference"] == "passed"
    assert outcome["gradgradcheck"] == f"skipped: {wrong['gradgradcheck']}"


def failure(check, norm, **options) -> str:
    """What the check says of the norm, which is to fail it."""
    (one,) = [each for each in checks(norm, batch_dependent=False, **options) if str(each) == check]
    with pytest.raises(AssertionError) as caught:
        one()
    assert not isinstance(caught.value, unittest.SkipTest)
    return str(caught.value)


def test_a_norm_of_weights_with_state_starts_where_its_iteration_has_converged():
    """Its gradient is exact there, and only there."""
    facts = {"kind": "weight", "batch_dependent": False, "state": ("_u", "_v")}
    for one in checks(nn.utils.parametrizations.spectral_norm, **facts):
        if str(one) in ("facts_hold", "independent_of_batch", "gradcheck", "can_be_removed", "survives_saving"):
            one()
