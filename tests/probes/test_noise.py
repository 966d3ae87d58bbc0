"""Noise put behind norms, and the noise of batch statistics where it is known."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normzoo
from normzoo.errors import UserError
from normzoo.probes.output_noise import OutputNoise, add_output_noise, output_noise
from normzoo.probes.statistic_noise import StatisticNoise, StatisticNoiseProbe, statistic_noise
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell


def test_noise_has_the_distribution_it_is_said_to_have() -> None:
    """Behind a norm that gives 2 everywhere, y = 2 s + m: mean 2 σ + μ, variance 4 r² + r'² / 3 about it."""
    model = nn.Sequential(nn.BatchNorm2d(4))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, 2.0)
    x = torch.randn(8, 4, 20, 20)
    with output_noise(model, shift=0.5, scale=1.5, shift_spread=0.3, scale_spread=0.2):
        y = torch.stack([model(x).detach() for _ in range(200)])
        model.eval()
        assert (model(x) == 2).all()
        model.train()
        with torch.no_grad():
            assert (model(x) == 2).all()
    assert (model(x) == 2).all()
    means, variances = y.mean((1, 3, 4)), y.var((1, 3, 4))  # of one channel in one step
    assert means.mean() == pytest.approx(2 * 1.25, abs=0.1)
    assert means.var() == pytest.approx(4 * 0.5**2 / 12 + 1.0 / 12, rel=0.15)
    assert means.min() > 2 - 0.5 - 0.05
    assert means.max() < 3 + 0.5 + 0.05
    assert variances.mean() == pytest.approx(4 * 0.2**2 + 0.6**2 / 12, rel=0.02)


def test_noise_differs_between_samples_channels_positions_steps_and_norms() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 3), normzoo.create("batch_norm", 3))
    with output_noise(model):
        outputs = [part(torch.zeros(2, 3, 2, 2)) for _ in range(2) for part in model]
    values = torch.cat([output.flatten() for output in outputs])
    assert len(values.unique()) == len(values)


def test_no_noise_is_none_and_the_gradient_goes_through() -> None:
    model = nn.Sequential(normzoo.create("group_norm", 4))
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    plain = model(x)
    with output_noise(model, shift=0, scale=1, shift_spread=0, scale_spread=0):
        torch.testing.assert_close(model(x), plain)
    with output_noise(model, shift=0.5, scale=1, shift_spread=0.1, scale_spread=0):
        (a,) = torch.autograd.grad(model(x).square().sum(), x)
    assert a.isfinite().all()
    assert len(model[0]._forward_hooks) == 0


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="layer"))
def test_every_norm_takes_noise_and_is_free_of_it_afterwards(norm: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 1), normzoo.create(norm, 8))
    x = torch.randn(6, 2, 4, 4)
    with output_noise(model):
        model(x).sum().backward()
    assert sum(len(part._forward_hooks) for part in model.modules()) == 0


def test_channels_last_stays() -> None:
    model = nn.Sequential(normzoo.create("batch_norm", 4))
    with output_noise(model):
        y = model(torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_bad_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="no norm"):
        add_output_noise(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"scale=0\.5"):
        OutputNoise(scale=0.5)
    for wrong in ({"batches": 1}, {"batches": 4, "group_size": 0}):
        with pytest.raises(UserError, match="batches"):
            StatisticNoiseProbe(**wrong)
    with pytest.raises(ValueError, match="two batches"):
        statistic_noise(nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(4, 2)])


def test_independent_values_have_the_noise_of_the_textbook() -> None:
    """Of n independent normal values the mean has variance 1/n, and the biased variance 2 (n − 1) / n²."""
    model = nn.Sequential(normzoo.create("batch_norm", 400))
    batches = [3.0 + 2.0 * torch.randn(10, 400, 2) for _ in range(60)]
    whole = statistic_noise(model, batches)
    assert whole.values.tolist() == [20]
    assert float(whole.mean) == pytest.approx(1 / math.sqrt(20), rel=0.03)
    assert float(whole.var) == pytest.approx(math.sqrt(2 * 19) / 20, rel=0.03)
    groups = statistic_noise(model, batches, group_size=2)
    assert groups.values.tolist() == [4]
    assert float(groups.mean) == pytest.approx(1 / math.sqrt(4), rel=0.03)
    assert float(groups.var) == pytest.approx(math.sqrt(2 * 3) / 4, rel=0.03)


def test_noise_by_its_definition_on_two_batches() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    a, b = torch.tensor([[0.0, 5.0], [2.0, 5.0]]), torch.tensor([[4.0, 5.0], [10.0, 5.0]])
    found = statistic_noise(model, [a, b])  # means 1 and 7, variances 1 and 9; the constant channel is left out
    population = 5 + 9
    assert float(found.mean) == pytest.approx(math.sqrt(18 / population))
    assert float(found.var) == pytest.approx(math.sqrt(32) / population)


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="layer"))
def test_a_measurement_leaves_no_trace(norm: str, leaves_no_trace: Any) -> None:
    def measure(model: nn.Module, batch: Any) -> None:
        statistic_noise(model, [batch[0], 2 * batch[0]])
        model.eval()
        statistic_noise(model, [batch[0], 2 * batch[0]])
        model.train()

    leaves_no_trace(measure, norm)


def test_a_noisy_cell_trains_otherwise_and_evaluates_without_noise(config: Any, tmp_path: Any) -> None:
    noisy = config("+probe=output_noise", "trainer.max_epochs=1")
    a, again = run_cell(noisy, tmp_path / "a"), run_cell(noisy, tmp_path / "again")
    plain = run_cell(config("trainer.max_epochs=1"), tmp_path / "b")
    assert a.curve == again.curve
    assert a.metrics["train_loss"] != plain.metrics["train_loss"]
    none = {f"probe.output_noise.{name}": value for name, value in (("shift", 0), ("shift_spread", 0))}
    none |= {"probe.output_noise.scale": 1, "probe.output_noise.scale_spread": 0}
    cell = config("+probe=output_noise", "trainer.max_epochs=1", *(f"{key}={value}" for key, value in none.items()))
    without = run_cell(cell, tmp_path / "c")
    assert without.metrics["train_loss"] == pytest.approx(plain.metrics["train_loss"], rel=1e-4)


def test_a_cell_records_the_noise_of_its_statistics(config: Any, tmp_path: Any) -> None:
    chosen = ("+probe=statistic_noise", "probe.statistic_noise.batches=6")
    a, b = run_cell(config(*chosen), tmp_path / "a"), run_cell(config(), tmp_path / "b")
    assert a.curve == b.curve
    arrays = read_recording(tmp_path / "a")
    assert arrays["noise_mean"].shape == (2, 4)
    assert arrays["noise_values"].tolist() == [8 * 64, 8 * 16, 8 * 4, 8]
    assert a.metrics["statistic_noise_mean"] == pytest.approx(arrays["noise_mean"][1].mean())
    assert (arrays["noise_mean"][:, 3] > arrays["noise_mean"][:, 0]).all()  # 8 values against 512


def test_a_continued_probe_keeps_its_rows() -> None:
    first, second = StatisticNoiseProbe(), StatisticNoiseProbe()
    first.rows = [StatisticNoise(("a",), torch.tensor([0.5]), torch.tensor([0.25]), torch.tensor([4]))]
    second.load_state_dict(first.state_dict())
    assert second.summary() == {"statistic_noise_mean": 0.5, "statistic_noise_var": 0.25}


def test_other_probes_measure_a_noisy_model_with_one_draw_of_its_noise() -> None:
    """At a step of almost no length the same function must give almost the same gradient."""
    from normzoo.probes.loss_landscape import loss_landscape

    model = nn.Sequential(nn.Linear(4, 6), normzoo.create("batch_norm", 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batch = torch.randn(12, 4).double(), torch.arange(12) % 3
    with output_noise(model):
        found = loss_landscape(model, F.cross_entropy, batch, [1e-6])
        assert float(found.gradient_distances) < 1e-4
        assert float(found.losses) == pytest.approx(found.loss, abs=1e-4)
