"""Distributions, saturation and death of activations that are set up by hand."""

import math
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import normzoo
from normzoo.errors import UserError
from normzoo.probes._batches import input_of
from normzoo.probes.activation_distribution import (
    ActivationDistributionProbe,
    Distribution,
    activation_distribution,
    drift,
)
from normzoo.probes.activation_health import ActivationHealthProbe, activation_health, gradient_norms
from normzoo.probes.channel_correlation import channel_correlation
from normzoo.probes.loss_landscape import loss_landscape
from normzoo.probes.loss_surface import loss_surface
from normzoo.probes.statistic_noise import statistic_noise
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell


def fixed_linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def test_a_relu_is_dead_that_no_sample_activates() -> None:
    """Three units of x: x, −x and x − 10; on x from 1 to 4 the second and third never pass zero."""
    model = nn.Sequential(fixed_linear([[1.0], [-1.0], [1.0]], [0.0, 0.0, -10.0]), nn.ReLU(inplace=True))
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    found = activation_health(model, [x])
    assert (found.layers, found.kinds) == (("1",), ("relu",))
    assert found.dead.tolist() == pytest.approx([2 / 3])
    assert found.inactive.tolist() == pytest.approx([2 / 3])
    assert found.saturated.isnan().all()
    both = activation_health(model, [x, torch.tensor([[11.0]])])  # the third lives for another batch
    assert both.dead.tolist() == pytest.approx([1 / 3])
    assert both.inactive.tolist() == pytest.approx([(8 + 1) / 15])


def test_a_channel_lives_by_one_position() -> None:
    x = torch.full((2, 3, 4, 4), -1.0)
    x[1, 2, 3, 0] = 0.5
    found = activation_health(nn.ReLU(), [x])
    assert found.dead.tolist() == pytest.approx([2 / 3])
    assert found.inactive.tolist() == pytest.approx([1 - 1 / 96])
    tokens = activation_health(nn.ReLU(), [x.movedim(1, -1)], channel_dim=-1)
    assert tokens.dead.tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_saturation_is_nearness_to_an_end_of_the_range(margin: float) -> None:
    x = torch.linspace(-6, 6, 1201).view(1, -1)
    model = nn.Sequential(nn.Sigmoid(), nn.Identity())
    found = activation_health(model, [x], margin=margin)
    sigmoid, tanh = torch.sigmoid(x), torch.tanh(x)
    expected = ((sigmoid < margin) | (sigmoid > 1 - margin)).double().mean()
    assert found.saturated.tolist() == pytest.approx([float(expected)])
    found = activation_health(nn.Tanh(), [x], margin=margin)
    assert found.saturated.tolist() == pytest.approx([float((tanh.abs() > 1 - 2 * margin).double().mean())])


class Functional(nn.Module):
    """Calls activations in every way there is, some of them in place, and a norm that has a sigmoid within."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.norm = normzoo.create("evo_norm_s0", 4, num_groups=2)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.act(x)).relu()
        x = F.relu(self.norm(x)).tanh().sigmoid_()
        x = torch.relu_(F.gelu(torch.tanh(x)))
        return self.lstm(x.unsqueeze(1))[0].flatten(1)


def test_functions_and_modules_are_seen_alike_and_norms_not() -> None:
    found = activation_health(Functional(), [torch.randn(5, 4)])
    assert list(zip(found.layers, found.kinds, strict=True)) == [
        ("act", "relu"), ("act#2", "relu"), ("model", "relu"), ("model#2", "relu"), ("model#3", "tanh"),
        ("model#4", "sigmoid"), ("model#5", "tanh"), ("model#6", "other"), ("model#7", "relu"),
    ]  # fmt: skip


def test_what_an_activation_is_given_is_seen_before_it_is_overwritten() -> None:
    found = activation_distribution(nn.ReLU(inplace=True), torch.tensor([[-3.0], [1.0]]), [0.0, 1.0])
    assert (float(found.mean), float(found.std)) == (-1.0, 2.0)
    assert found.quantiles.tolist() == [[-3.0, 1.0]]


def test_the_distribution_by_layer_and_by_channel() -> None:
    x = torch.randn(50, 3, 4)
    found = activation_distribution(nn.Sequential(nn.Tanh(), nn.ReLU()), x, [0.15, 0.5, 0.85])
    y = np.tanh(x.double().numpy())
    for i, values in enumerate((x.double().numpy(), y)):
        assert float(found.mean[i]) == pytest.approx(values.mean(), abs=1e-6)
        assert float(found.std[i]) == pytest.approx(values.std(), rel=1e-5)
        np.testing.assert_allclose(found.quantiles[i], np.quantile(values, [0.15, 0.5, 0.85]), atol=1e-6)
        np.testing.assert_allclose(found.channel_means[i], values.mean((0, 2)), atol=1e-6)
        np.testing.assert_allclose(found.channel_stds[i], values.std((0, 2)), rtol=1e-5)


def test_drift_is_counted_in_standard_deviations_of_the_channel() -> None:
    def of(means: list[float], stds: list[float]) -> Distribution:
        empty = torch.empty(0)
        return Distribution(
            ("a",), empty, empty, empty, (torch.tensor(means).double(),), (torch.tensor(stds).double(),)
        )

    assert float(drift(of([0, 0], [2, 1]), of([4, 0], [2, 1]))) == pytest.approx(1.0)  # two units and none
    assert float(drift(of([0], [1]), of([3], [5]))) == pytest.approx(5.0)  # 3 in the mean, 4 in the spread
    assert float(drift(of([0, 0], [0, 1]), of([9, 1], [9, 1]))) == pytest.approx(1.0)  # the constant one has no unit


def test_gradient_norms_of_a_linear_chain_shrink_by_the_weights_behind() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
    for layer in model:
        nn.init.constant_(layer.weight, 0.1)
    found = gradient_norms(model, lambda output, _: output.sum(), (torch.ones(1, 1), None))
    assert found == pytest.approx({"0": 0.01, "1": 0.01, "2": 0.01})
    nn.init.constant_(model[0].weight, 1.0)
    found = gradient_norms(model, lambda output, _: output.sum(), (torch.ones(1, 1), None))
    assert found == pytest.approx({"0": 0.01, "1": 0.1, "2": 0.1})


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="layer"))
def test_a_measurement_leaves_no_trace(norm: str, leaves_no_trace: Any) -> None:
    def measure(model: nn.Module, batch: Any) -> None:
        activation_health(model, [batch[0]])
        activation_distribution(model, batch[0])
        gradient_norms(model, F.cross_entropy, batch)

    leaves_no_trace(measure, norm)


def test_nan_is_neither_dead_nor_healthy() -> None:
    x = torch.tensor([[math.nan, 1.0]])
    found = activation_health(nn.Sequential(nn.ReLU(), nn.Tanh()), [x])
    assert found.dead.isnan().all()
    assert found.saturated.isnan().all()
    assert found.inactive.isnan().all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(TypeError, match=r"inputs: expected several batches, a list, \[x\] for one; got a Tensor"):
        activation_health(nn.ReLU(), torch.zeros(2, 2))
    with pytest.raises(
        TypeError, match=r"batches: expected several batches, .* two or more, or \[x\] with a group_size"
    ):
        statistic_noise(nn.BatchNorm1d(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="margin"):
        activation_health(nn.Tanh(), [torch.zeros(2, 2)], margin=0.5)
    for wrong in ({"margin": 0.7}, {"samples": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ActivationHealthProbe(**wrong)
    with pytest.raises(UserError, match="quantiles"):
        ActivationDistributionProbe(quantiles=[15, 85])


def test_a_model_without_activations_has_empty_records() -> None:
    model = nn.Linear(2, 2)
    assert activation_health(model, [torch.zeros(1, 2)]).dead.shape == (0,)
    assert activation_distribution(model, torch.zeros(1, 2)).quantiles.shape == (0, 5)


def test_cells_train_the_same_with_the_probes_and_record_them(config: Any, tmp_path: Any) -> None:
    chosen = ("model=plain_cnn", "model.activation=tanh", "norm=group_norm")
    probes = (
        "probe=[activation_health,activation_distribution]", "probe.activation_distribution.every=8",
        "probe.activation_distribution.samples=32", "probe.activation_health.every=8",
    )  # fmt: skip
    a, b = run_cell(config(*chosen, *probes), tmp_path / "a"), run_cell(config(*chosen), tmp_path / "b")
    assert a.curve == b.curve
    arrays = read_recording(tmp_path / "a")
    rows = math.ceil(a.metrics["steps"] / 8)
    assert arrays["health_saturated"].shape == arrays["activation_mean"].shape == (rows, 4)
    assert arrays["health_gradient_norms"].shape == (rows, 5)
    assert arrays["health_layers"].tolist() == [f"stages.{i}.act" for i in range(4)]
    assert arrays["health_kinds"].tolist() == ["tanh"] * 4
    assert a.metrics["saturated"] == pytest.approx(arrays["health_saturated"][-1].mean())
    assert "dead" not in a.metrics
    assert arrays["activation_step"].tolist() == list(range(0, int(a.metrics["steps"]), 8))
    assert (arrays["activation_drift"] > 0).all()
    assert a.metrics["activation_drift"] == pytest.approx(np.median(arrays["activation_drift"].mean(1)))
    first = np.log10(arrays["health_gradient_norms"][0, 0] / arrays["health_gradient_norms"][0, -1])
    assert a.metrics["gradient_decades"] == pytest.approx(first)


def test_continued_probes_keep_their_rows_and_names() -> None:
    first, second = ActivationDistributionProbe(), ActivationDistributionProbe()
    first.last = activation_distribution(nn.ReLU(), torch.randn(4, 2))
    first.names["layers"] = list(first.last.layers)
    first.keep(0, {"drift": torch.tensor([math.nan])})
    second.load_state_dict(first.state_dict())
    assert second.recording()["activation_layers"] == ["model"]
    assert float(drift(second.last, first.last)) == 0  # type: ignore[arg-type]
    health, again = ActivationHealthProbe(), ActivationHealthProbe()
    health.names = {"layers": ["a"], "kinds": ["relu"]}
    health.keep(
        0,
        {
            "saturated": torch.tensor([math.nan]),
            "dead": torch.tensor([0.25]),
            "gradient_norms": torch.tensor([1.0, 10.0]),
        },
    )
    again.load_state_dict(health.state_dict())
    assert again.summary() == {"dead": 0.25, "dead_worst": 0.25, "gradient_decades": pytest.approx(-1.0)}


class Masked(nn.Module):
    """A second input that may be left out."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.relu(self.layer(x) if mask is None else self.layer(x) * mask)


def test_batches_of_a_loader_are_taken_without_their_targets() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 3
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    loader = DataLoader(TensorDataset(x, y), batch_size=4)  # of lists
    expected = activation_health(net, [x[:4], x[4:]]).inactive
    for given in (loader, list(loader), [(x[:4], y[:4]), (x[4:], y[4:])]):
        assert torch.equal(activation_health(net, given).inactive, expected)
    whole = activation_health(net, [x]).inactive
    for one in ((x, y), [x, y], (x, torch.randn(8))):
        assert torch.equal(activation_health(net, one).inactive, whole)
        assert torch.equal(activation_distribution(net, one).mean, activation_distribution(net, x).mean)
        assert channel_correlation(net, one) == channel_correlation(net, x)
    assert torch.equal(statistic_noise(net, loader).mean, statistic_noise(net, [x[:4], x[4:]]).mean)


@pytest.mark.parametrize("targets", [torch.randn(8, 1), torch.randn(8, 3)], ids=["regression", "as many as inputs"])
def test_targets_that_are_no_labels(targets: Tensor) -> None:
    x = torch.randn(8, 3)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    loader = DataLoader(TensorDataset(x, targets), batch_size=4)
    assert torch.equal(activation_health(net, loader).inactive, activation_health(net, [x[:4], x[4:]]).inactive)
    assert torch.equal(statistic_noise(net, loader).mean, statistic_noise(net, [x[:4], x[4:]]).mean)
    for batch in ((x, targets), [x, targets]):
        assert channel_correlation(net, batch) == channel_correlation(net, x)
        assert channel_correlation(torch.compile(net, backend="eager"), batch)  # type: ignore[arg-type]


def test_one_batch_with_its_target_is_not_two() -> None:
    x, net = torch.randn(8, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    inactive, noise = activation_health(net, [x]).inactive, statistic_noise(net, [x], group_size=4).mean
    for one in ((x, torch.randn(8, 1)), (x, torch.ones(8, 3, dtype=torch.long)), ((x,), x)):
        assert torch.equal(activation_health(net, one).inactive, inactive)
        assert torch.equal(statistic_noise(net, one, group_size=4).mean, noise)
    two = x.split(5)
    assert torch.equal(activation_health(net, two).inactive, activation_health(net, list(two)).inactive)
    for measure in (activation_health, statistic_noise):
        with pytest.raises(TypeError, match=r"ambiguous; pass \[\(x, y\)\] or \[x1, x2\]"):
            measure(net, (x, x))


def test_several_inputs_are_given_as_they_are() -> None:
    x, mask = torch.ones(2, 4), torch.tensor([[1.0, 0, 0, 0]] * 2)
    assert activation_health(Masked(), [(x, mask)]).inactive == 0.75
    assert activation_health(Masked(), [(x, mask[0])]).inactive == 0.75  # of another rank
    assert activation_health(Masked(), [(x, mask[0].bool())]).inactive == 0.75
    assert activation_health(Masked(), [(x, torch.tensor([1, 0]))]).inactive == 0  # labels
    assert activation_health(Masked(), [((x, mask), torch.tensor([1, 0]))]).inactive == 0.75
    assert activation_health(Masked(), ((x, mask), x)).inactive == 0.75
    assert activation_health(Masked(), [x, x]).inactive == 0  # two batches


def test_an_input_that_is_needed_is_one_also_before_others() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
            return F.relu(x * scale)

    x, scale = torch.ones(2, 4), torch.tensor([1, 0, 0, 0])
    assert activation_health(Scaled(), [(x, scale)]).inactive == 0.75


@pytest.mark.parametrize("second", [torch.tensor([1.0, 0, 0, 0]), torch.tensor([1, 0, 0, 0])])
def test_callbacks_leave_out_the_target_alone(second: Tensor) -> None:
    """Also where the second input could be a target."""
    trainer = types.SimpleNamespace(world_size=1, global_step=0)
    model = Masked(fixed_linear(torch.eye(4).tolist(), [0.0] * 4))
    batch = (torch.ones(2, 4), second), torch.tensor([0, 1])
    assert ActivationHealthProbe().measure(trainer, model, batch)["inactive"] == 0.75
    row = ActivationDistributionProbe(samples=None).measure(trainer, model, batch)
    assert row is not None
    assert row["mean"] == 0.25


@pytest.mark.parametrize("wrong", [torch.randn(4, 3), (torch.randn(4, 3),)], ids=["tensor", "one"])
def test_a_loss_takes_input_and_target(wrong: Any) -> None:
    net = nn.Linear(3, 2)
    for measure in (gradient_norms, loss_landscape, loss_surface):
        with pytest.raises(TypeError, match=r"pair \(input, target\), got a (Tensor of shape \(4, 3\)|tuple of 1)"):
            measure(net, F.cross_entropy, wrong)


def test_several_inputs_as_a_loader_collates_them() -> None:
    samples = [((torch.ones(3), torch.zeros(3)), index) for index in range(4)]
    (batch,) = DataLoader(samples, batch_size=4)  # type: ignore[arg-type, var-annotated]
    assert isinstance(batch[0], list)
    x = input_of(Masked(), batch)
    assert isinstance(x, tuple)
    assert [part.shape for part in x] == [(4, 3), (4, 3)]


def test_what_is_put_around_a_model_takes_no_more_than_it() -> None:
    batch = (torch.zeros(4, 3), torch.zeros(4))
    for model in (nn.DataParallel(nn.Linear(3, 2)), torch.compile(nn.Linear(3, 2), backend="eager")):
        assert input_of(model, batch) is batch[0]
