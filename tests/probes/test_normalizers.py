"""The study of data normalizers: what it reports of data whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from normzoo.preprocessing import NORMALIZERS, ZScore
from normzoo.probes.normalizers import EXAMPLE, measure


def parts(x):
    return SimpleNamespace(data=lambda: SimpleNamespace(tensors=lambda split: (x, torch.zeros(len(x)))))


@pytest.fixture
def images():
    """Pixels that go together, one of which is always black."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, 2, 3, 3, generator=generator) + torch.rand(300, 1, 1, 1, generator=generator)
    x[:, 0, 0, 0] = 0
    return x


@pytest.mark.parametrize("per", ["feature", "channel"])
def test_each_normalizer_does_what_it_is_for(images, per):
    metrics, _ = measure(parts(images), per=per)
    assert (metrics["minmax_min"], metrics["minmax_max"]) == (0, pytest.approx(1))
    for name in ("zscore", "pca", "zca"):
        assert metrics[f"{name}_mean_off"] < 1e-10
    assert metrics["zscore_std_off"] < 1e-10
    assert metrics["pca_std_off"] < 1e-8
    assert metrics["zscore_correlation"] == pytest.approx(metrics["raw_correlation"])
    assert metrics["raw_correlation"] > 0.3
    assert max(metrics["pca_correlation"], metrics["zca_correlation"]) < 1e-8
    if per == "feature":
        assert metrics["l2_length_off"] < 1e-10 < metrics["raw_length_off"]
    for name in NORMALIZERS:
        assert metrics[f"{name}_stream"] < 1e-7
        assert name == "l2" or metrics[f"{name}_inverse"] < 1e-9
        assert metrics[f"{name}_nan"] < 1e-9
        assert metrics[f"{name}_not_finite"] == 0
    assert metrics["raw_constant"] == (per == "feature")


def test_a_normalizer_that_mistakes_missing_samples_is_found(images, monkeypatch):
    class Careless(ZScore):
        def fit(self, data):
            return super().fit(data.nan_to_num() if isinstance(data, torch.Tensor) else data)

    monkeypatch.setitem(NORMALIZERS, "zscore", Careless)
    metrics, _ = measure(parts(images))
    assert metrics["zscore_nan"] > 0.01
    assert metrics["minmax_nan"] < 1e-9


def test_histograms_count_every_value_that_varies(images):
    metrics, arrays = measure(parts(images), bins=10)
    for name in ("raw", *NORMALIZERS):
        counts, edges = arrays[f"{name}_histogram"], arrays[f"{name}_edges"]
        assert (counts.shape, edges.shape) == ((10,), (11,))
        assert counts.sum() == 300 * 17
        assert arrays[f"{name}_pair"].shape == (300, 2)
        assert metrics[f"{name}_min"] <= edges[0] <= edges[-1] <= metrics[f"{name}_max"]
    np.testing.assert_allclose(arrays["raw_image"], images[0].double())
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_pair_is_of_the_features_that_vary_most():
    x = torch.randn(50, 4) * torch.tensor([1.0, 9.0, 0.1, 5.0])
    _, arrays = measure(parts(x.view(50, 1, 2, 2)))
    np.testing.assert_allclose(arrays["raw_pair"], x[:, [1, 3]].double())


def test_the_tutorials_example_is_not_of_length_one(images):
    metrics, arrays = measure(parts(images))
    assert metrics["example_length"] == pytest.approx(sum(v * v for v in EXAMPLE) ** 0.5)
    assert metrics["example_length"] < 0.03
    assert metrics["example_l2_length"] == pytest.approx(1)
    np.testing.assert_allclose(arrays["example_l2"] * metrics["example_length"], EXAMPLE)


def test_at_most_so_many_samples(images):
    _, arrays = measure(parts(images), samples=40)
    assert arrays["raw_histogram"].sum() == 40 * 17


def test_one_channel_has_no_correlation():
    metrics, _ = measure(parts(torch.rand(20, 1, 4, 4)), per="channel")
    assert metrics["raw_correlation"] == 0
