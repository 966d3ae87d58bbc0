"""Correlation of the channels behind norms, against what it must be."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import normzoo
from normzoo.errors import UserError
from normzoo.probes.channel_correlation import ChannelCorrelationProbe, channel_correlation


def mixed(n: int = 400) -> torch.Tensor:
    """Four channels, of which the second is the first and the third its negative, noise apart."""
    draw = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return torch.stack([draw[:, 0], draw[:, 0] + 0.1 * draw[:, 1], 0.1 * draw[:, 2] - draw[:, 0], draw[:, 3]], 1)


def test_batch_norm_leaves_the_correlations_of_its_input() -> None:
    x = mixed()
    (found,) = channel_correlation(nn.Sequential(normzoo.create("batch_norm", 4)), x).values()
    r = torch.corrcoef(x.T.double())
    assert found[0] == pytest.approx(float((r.abs().sum() - 4) / 12), abs=1e-5)
    eigenvalues = torch.linalg.eigvalsh(r)
    assert found[1] == pytest.approx(float(eigenvalues[-1] / eigenvalues[0]), rel=1e-2)


def test_whitening_takes_them_out_whatever_the_weights() -> None:
    norm = normzoo.create("decorrelated_batch_norm", 4, num_groups=1)
    nn.init.uniform_(norm.weight, 0.5, 2.0)  # type: ignore[arg-type]
    assert channel_correlation(nn.Sequential(norm), mixed())["0"] == pytest.approx((0.0, 1.0), abs=1e-2)


def test_constant_channels_are_left_out_and_nothing_is_changed() -> None:
    x = mixed()
    x[:, 3] = 5.0
    model = nn.Sequential(normzoo.create("batch_norm", 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert channel_correlation(model, x)["0"][0] > 0.9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert math.isnan(channel_correlation(model, torch.ones(8, 4))["0"][0])


def test_what_cannot_be_is_refused_and_without_norms_there_is_nothing() -> None:
    with pytest.raises(UserError, match="samples=1"):
        ChannelCorrelationProbe(1)
    probe: Any = ChannelCorrelationProbe()
    assert probe.summary() == {"channel_correlation": None, "channel_condition": None}
    assert channel_correlation(nn.Sequential(nn.Linear(4, 2)), mixed()) == {}
