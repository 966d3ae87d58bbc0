"""The study of batch normalization finds nothing on batch norm, and finds what a broken one breaks."""

from typing import Any

import numpy as np
import pytest
import torch

import normzoo
from normzoo.errors import UserError
from normzoo.norms.batch_norm import BatchNorm
from normzoo.probes.bn_algorithm import bn_algorithm, gradients, normalize
from normzoo.training.config import CellConfig, parse
from normzoo.training.instantiate import Parts


class Broken(BatchNorm):
    """Batch norm with one thing wrong."""

    fault = ""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.fault == "not centred" and self.training:
            mean = input.mean([0, *range(2, input.dim())], keepdim=True)
            return super().forward(input) + 1e-6 * mean
        if self.fault == "moves in evaluation" and not self.training:
            return super().forward(input - 1e-6 * input.mean())
        if self.fault == "biased running variance" and self.training:
            before = self.running_var.clone()
            y = super().forward(input)
            m = self.values_per_statistic(input.shape)
            if self.momentum is not None:
                new = (self.running_var - (1 - self.momentum) * before) / self.momentum
                self.running_var = (1 - self.momentum) * before + self.momentum * new * (m - 1) / m
            return y
        return super().forward(input)


class StudyParts(Parts):
    """A study's parts with a norm of the test's own."""

    fault = ""

    def norm(self) -> Any:
        def build(*args: Any, **kwargs: Any) -> Broken:
            layer = Broken(*args, **kwargs)
            layer.fault = self.fault
            return layer

        return build


def config(name: str = "batch_norm", seed: int = 0) -> CellConfig:
    others = {group: {"_target_": "any"} for group in ("model", "data")}
    return parse({"seed": seed, "norm": {"name": name}, "optimizer": {"_target_": "any", "base_lr": 0.1}, **others})


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_scratch"])
def test_batch_norm_is_what_the_paper_says(name: str) -> None:
    metrics, arrays = bn_algorithm(Parts(config(name)), steps=50)
    assert metrics.pop("values_a_channel") == 12
    assert max(metrics.values()) < 1e-12
    assert {len(arrays[f"running_mean_{path}"]) for path in ("torch", "fraction", "caffe", "cumulative")} == {50}
    departure = np.array(arrays["departure_with_eps"])
    assert departure[0] > 0.1 > 1e-4 > departure[-1]  # eps matters beside a variance of 1e-6, not of 1e4


STEP = ("forward_dense", "forward_conv", "identity_conv", "bias_output_conv", "scale_output_dense")
AVERAGES = ("moving_average_torch", "moving_average_caffe")


@pytest.mark.parametrize(
    ("fault", "found", "sound"),
    [
        ("", (), (*STEP, *AVERAGES, "inference_conv", "bias_gradient_dense")),
        ("not centred", (*STEP, "backward_dense", "bias_gradient_conv"), (*AVERAGES, "inference_dense")),
        ("moves in evaluation", ("inference_dense", "inference_conv"), STEP),
        ("biased running variance", AVERAGES, (*STEP, "inference_conv")),
    ],
)
def test_what_is_broken_is_found(fault: str, found: tuple[str, ...], sound: tuple[str, ...]) -> None:
    parts = StudyParts(config())
    object.__setattr__(parts, "fault", fault)
    metrics, _ = bn_algorithm(parts, steps=20)
    assert {name: metrics[name] for name in found if metrics[name] < 1e-8} == {}
    assert {name: metrics[name] for name in sound if metrics[name] > 1e-12} == {}


def test_a_norm_without_running_statistics_is_refused() -> None:
    assert not normzoo.info("group_norm").state
    with pytest.raises(UserError, match=r"group_norm has no running_mean.*choose batch_norm"):
        bn_algorithm(Parts(config("group_norm")))


def test_the_chain_rule_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, dy, weight, bias = torch.randn(4, 2), torch.randn(4, 2), torch.rand(2) + 1, torch.randn(2)
    x, dy, weight, bias = (value.double() for value in (x, dy, weight, bias))
    found = gradients(x, dy, weight, 1e-5)[0]
    for at in ((0, 0), (3, 1)):
        step = torch.zeros_like(x)
        step[at] = 1e-6
        ends = [(normalize(x + sign * step, weight, bias, 1e-5) * dy).sum() for sign in (1, -1)]
        assert float(found[at]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, abs=1e-8)
