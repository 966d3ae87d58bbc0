"""Normalizers of data against scikit-learn and NumPy; streams, inverses, constants, NaN, saving, errors."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from normzoo import UserError
from normzoo.preprocessing import L2, NORMALIZERS, MinMax, Normalizer, PCAWhitening, ZCAWhitening, ZScore

FITTED = [name for name in NORMALIZERS if name != "l2"]
WHITENING = ["pca", "zca"]


def correlated(n=200, d=5, *, seed=0, offset=3.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + offset)


def images(n=40, *, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, 4, 5)) * [[[1.0]], [[5.0]], [[0.1]]] + 2)


def test_minmax_and_zscore_are_those_of_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    train, new = correlated(), correlated(30, seed=1)
    train[:, 2] = 7.1  # a feature that never changes
    for ours, theirs in [
        (MinMax(), preprocessing.MinMaxScaler()),
        (MinMax(-1, 2), preprocessing.MinMaxScaler((-1, 2))),
        (ZScore(), preprocessing.StandardScaler()),
    ]:
        theirs.fit(train.numpy())
        ours.fit(train)
        for x in (train, new):
            torch.testing.assert_close(ours(x), torch.from_numpy(theirs.transform(x.numpy())))


def test_missing_values_are_those_of_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = correlated()
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2] = torch.nan
    for ours, theirs in ((MinMax(), preprocessing.MinMaxScaler()), (ZScore(), preprocessing.StandardScaler())):
        expected = torch.from_numpy(theirs.fit_transform(x.numpy()))
        torch.testing.assert_close(ours.fit_transform(x), expected, equal_nan=True)
        streamed = type(ours)().fit(x.split(7))
        torch.testing.assert_close(streamed(x), expected, equal_nan=True)


def test_l2_is_that_of_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = correlated()
    x[3] = 0
    torch.testing.assert_close(L2()(x), torch.from_numpy(preprocessing.normalize(x.numpy())))


def test_pca_whitening_is_that_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = correlated()
    for components in (None, 3):
        theirs = decomposition.PCA(components, whiten=True).fit(x.numpy())
        expected = torch.from_numpy(theirs.transform(x.numpy())) * (200 / 199) ** 0.5  # theirs divides by N - 1
        y = PCAWhitening(components).fit_transform(x)
        assert y.shape == expected.shape
        torch.testing.assert_close(y * (y[0] * expected[0]).sign(), expected)


def test_zca_whitening_is_the_inverse_square_root_of_the_covariance():
    x = correlated()
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    torch.testing.assert_close(ZCAWhitening().fit_transform(x), (x - x.mean(0)) @ torch.from_numpy(root))
    blurred = vectors @ np.diag((values + 0.5) ** -0.5) @ vectors.T
    torch.testing.assert_close(ZCAWhitening(eps=0.5).fit_transform(x), (x - x.mean(0)) @ torch.from_numpy(blurred))


@pytest.mark.parametrize("name", WHITENING)
def test_whitened_data_have_covariance_one(name):
    y = NORMALIZERS[name]().fit_transform(correlated())
    torch.testing.assert_close(torch.from_numpy(np.cov(y.numpy().T, bias=True)), torch.eye(5, dtype=torch.float64))
    pixels = NORMALIZERS[name](per="channel").fit_transform(images()).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(torch.from_numpy(np.cov(pixels.numpy().T, bias=True)), torch.eye(3).double())


@pytest.mark.parametrize("per", ["feature", "channel"])
@pytest.mark.parametrize("name", FITTED)
def test_a_stream_gives_what_all_data_give(name, per):
    x = images()
    whole = NORMALIZERS[name](per=per).fit(x)
    for sizes in ([1] * 40, [3, 0, 17, 20], [39, 1]):
        stream = NORMALIZERS[name](per=per)
        for batch in x.split(sizes):
            stream.partial_fit(batch)
        torch.testing.assert_close(dict(stream.state_dict()), dict(whole.state_dict()))
    loader = [(batch, "label") for batch in x.split(6)]
    torch.testing.assert_close(NORMALIZERS[name](per=per).fit(loader)(x), whole(x))


@pytest.mark.parametrize("name", ["zscore", *WHITENING])
def test_a_stream_far_from_zero_loses_nothing(name):
    x = correlated(500, 3)
    near = NORMALIZERS[name]().fit(x.split(9))(x)
    far = NORMALIZERS[name]().fit((x + 1e6).split(9))(x + 1e6)
    torch.testing.assert_close(far, near, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("per", ["feature", "channel"])
@pytest.mark.parametrize("name", FITTED)
def test_the_inverse_comes_back(name, per):
    normalizer, new = NORMALIZERS[name](per=per).fit(images(100)), images(7, seed=1)
    torch.testing.assert_close(normalizer.inverse(normalizer(new)), new)


def test_the_inverse_of_some_components_is_the_nearest_of_their_plane():
    x = correlated()
    normalizer = PCAWhitening(2).fit(x)
    near = normalizer.inverse(normalizer(x))
    u = np.linalg.svd((x - x.mean(0)).numpy())[2][:2]
    torch.testing.assert_close(near, (x - x.mean(0)) @ torch.from_numpy(u.T @ u) + x.mean(0))


@pytest.mark.parametrize("name", FITTED)
def test_statistics_per_channel_are_those_of_pixels(name):
    x = images()
    pixels = x.movedim(1, -1).flatten(0, -2)
    expected = NORMALIZERS[name]().fit_transform(pixels).view(40, 4, 5, 3).movedim(-1, 1)
    normalizer = NORMALIZERS[name](per="channel").fit(x)
    torch.testing.assert_close(normalizer(x), expected)
    assert normalizer(torch.randn(2, 3, 9, 9)).shape == (2, 3, 9, 9)


@pytest.mark.parametrize("per", ["feature", "channel"])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_one_sample_as_in_a_compose(name, per):
    transforms = pytest.importorskip("torchvision.transforms")
    x = images()
    normalizer = NORMALIZERS[name](per=per).fit(x)
    batch, one = normalizer(x), transforms.Compose([torch.Tensor.double, normalizer])(x[4])
    assert one.shape == batch[4].shape
    torch.testing.assert_close(one, batch[4])
    if name != "l2":
        torch.testing.assert_close(normalizer.inverse(one), x[4])


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, 1e8 / 3])
def test_a_constant_feature_becomes_zero_and_comes_back(name, constant):
    x = correlated(300)
    x[:, 1] = constant
    normalizer = NORMALIZERS[name]().fit(x.split(7))
    y = normalizer(x)
    assert y.isfinite().all()
    if name == "pca":
        assert (y[:, :4].std(0) > 0.9).all()
        assert not y[:, 4].any()
    elif name == "zca":
        # A large constant is rounded where the other features are mixed with it.
        torch.testing.assert_close(y[:, 1], torch.zeros(300).double(), atol=1e-6, rtol=0)
    else:
        torch.testing.assert_close(y[:, 1], torch.zeros(300).double(), atol=1e-7 * max(1.0, constant * 1e-7), rtol=0)
    torch.testing.assert_close(normalizer.inverse(y), x)


@pytest.mark.parametrize("name", FITTED)
def test_data_that_never_change_become_zero(name):
    x = torch.full((33, 4), 0.1, dtype=torch.float64)
    normalizer = NORMALIZERS[name]().fit(x.split(10))
    torch.testing.assert_close(normalizer(x), torch.zeros(33, 4).double())
    torch.testing.assert_close(normalizer.inverse(normalizer(x)), x)


def test_a_constant_feature_of_minmax_becomes_the_low_end():
    assert MinMax(-1, 1).fit(torch.full((5, 1), 3.0))(torch.tensor([[3.0], [3.5]])).tolist() == [[-1.0], [0.0]]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_nan_stays_one(name):
    x = images()
    x[2, 1, 0, 0] = torch.nan
    for per in ("feature", "channel"):
        y = NORMALIZERS[name](per=per).fit_transform(x)
        sample_or_pixel = {"feature": 60, "channel": 3}[per]
        assert y.isnan().sum() == (1 if name in ("minmax", "zscore") else sample_or_pixel)
        assert y[2].isnan().any()


@pytest.mark.parametrize("name", WHITENING)
def test_whitening_leaves_out_rows_with_a_nan(name):
    x = correlated()
    with_gaps = torch.cat([x, x[:9]])
    with_gaps[200:, 2] = torch.nan
    torch.testing.assert_close(NORMALIZERS[name]().fit(with_gaps.split(50))(x), NORMALIZERS[name]().fit(x)(x))


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
def test_the_type_is_kept_and_an_integer_becomes_a_float(name, dtype):
    x = (images() * 10).clamp(0, 200).to(dtype)
    y = NORMALIZERS[name](per="channel").fit_transform(x)
    assert y.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    exact = NORMALIZERS[name](per="channel").fit_transform(x.double())
    torch.testing.assert_close(y.double(), exact, atol=2e-3 if dtype == torch.float16 else 1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_saved_loaded_copied_and_pickled(name):
    x = images()
    normalizer = NORMALIZERS[name](per="channel").fit(x)
    file = io.BytesIO()
    torch.save(normalizer.state_dict(), file)
    file.seek(0)
    loaded = NORMALIZERS[name](per="channel")
    loaded.load_state_dict(torch.load(file))
    inside = nn.Sequential(NORMALIZERS[name](per="channel"))
    inside.load_state_dict(nn.Sequential(normalizer).state_dict())
    for other in (loaded, inside, copy.deepcopy(normalizer), pickle.loads(pickle.dumps(normalizer))):
        torch.testing.assert_close(other(x), normalizer(x), rtol=0, atol=0)
    # And what was loaded goes on.
    if name != "l2":
        more = images(20, seed=3)
        torch.testing.assert_close(
            loaded.partial_fit(more)(x), NORMALIZERS[name](per="channel").fit(torch.cat([x, more]))(x)
        )


def test_a_fit_forgets_and_a_partial_fit_does_not():
    x, y = correlated(), correlated(seed=1, offset=-9)
    assert ZScore().fit(x).fit(y).mean.tolist() == ZScore().fit(y).mean.tolist()
    torch.testing.assert_close(ZScore().fit(x).partial_fit(y).mean, torch.cat([x, y]).mean(0))
    whitening = ZCAWhitening().fit(x)
    before = whitening(x)
    whitening.partial_fit(y)
    assert not torch.allclose(whitening(x), before)


def test_the_l2_example_of_a_tutorial():
    """The text's vector is not of length 1; the true one does not depend on what multiple of it is normalized."""
    text = torch.tensor([0.0066, 0.0004, 0.0085, 0.0093, 0.0068, 0.0076, 0.0074, 0.0039, 0.0066, 0.0017])
    assert text.norm().item() == pytest.approx(0.0206, abs=5e-5)
    true = L2()(text)
    assert true.norm().item() == pytest.approx(1, abs=1e-6)
    printed = [0.3209, 0.0195, 0.4133, 0.4522, 0.3307, 0.3696, 0.3599, 0.1897, 0.3209, 0.0827]
    assert [round(value, 4) for value in true.tolist()] == printed
    torch.testing.assert_close(L2()(10_000 * text), true)
    for number in printed:
        assert f"{number}" in L2.__doc__


def test_l2_of_channels_and_of_samples():
    x = images()
    torch.testing.assert_close(L2(per="channel")(x).norm(dim=1), torch.ones(40, 4, 5).double())
    torch.testing.assert_close(L2()(x).flatten(1).norm(dim=1), torch.ones(40).double())
    with pytest.raises(UserError, match="L2 has no inverse"):
        L2().fit(x).inverse(x)


@pytest.mark.parametrize("name", FITTED)
def test_used_before_a_fit(name):
    for call in (lambda n: n(images()), lambda n: n.inverse(images())):
        with pytest.raises(RuntimeError, match=f"{NORMALIZERS[name].__name__} is not fitted: call fit"):
            call(NORMALIZERS[name]())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZScore(per="row"), "ZScore: per='row' is unknown; choose feature or channel"),
        (lambda: MinMax(nan="drop"), "MinMax: nan='drop' is unknown; choose ignore or error"),
        (lambda: MinMax(1, 1), "low=1 must be below high=1"),
        (lambda: ZCAWhitening(eps=-1), "eps=-1 and tolerance=1e-10 must be"),
        (lambda: PCAWhitening(0), "n_components=0 must be a positive integer"),
        (lambda: PCAWhitening(6).fit_transform(correlated()), "n_components=6 exceeds the 5 features"),
        (lambda: ZScore().fit([]), "ZScore: no samples to fit to"),
        (lambda: ZScore().fit(torch.empty(0, 3)), "no samples to fit to"),
        (lambda: ZScore().fit(torch.randn(5)), r"shape \(5,\) has no features"),
        (lambda: ZScore(nan="error").fit(torch.tensor([[1.0], [torch.nan]])), "the data contain 1 NaN; remove them"),
        (lambda: MinMax().fit(torch.tensor([[1.0], [-torch.inf]])), "the data contain infinite values"),
        (lambda: ZScore().fit(images()).partial_fit(correlated()), r"\(3, 4, 5\), or batches of them, got \(200, 5\)"),
        (lambda: ZScore().fit(images())(images()[:, :2]), r"samples of shape \(3, 4, 5\), .* got \(40, 2, 4, 5\)"),
        (lambda: ZScore(per="channel").fit(images())(images()[:, :2]), r"shape \(3, any, any\), .* got \(40, 2, 4, 5"),
        (lambda: PCAWhitening(2).fit(correlated()).inverse(correlated()), r"shape \(2\), or batches .* got \(200, 5\)"),
    ],
)
def test_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", FITTED)
def test_a_feature_without_a_number(name):
    x = correlated()
    x[:, 3] = torch.nan
    with pytest.raises(UserError, match=r"feature 3 was always NaN|every row of the fit has a NaN"):
        NORMALIZERS[name]().fit_transform(x)


def test_they_have_no_parameters_and_know_their_kind():
    for make in NORMALIZERS.values():
        assert not list(make().parameters())
        assert issubclass(make, Normalizer)
