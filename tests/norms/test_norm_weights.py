"""Norms of weights: the conformance suite with a formula for the weight, torch's own, what holds for the outputs."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import normzoo
from normzoo.testing import checks
from tests.norms.norm_cases import marked

NAMES = normzoo.list_norms(kind="weight")


def rows(weight):
    """A copy in NumPy, as a matrix with the weights of an output in each row."""
    return weight.detach().numpy().copy().reshape(len(weight), -1)


def weight_norm(original, layer):
    g, v = map(rows, original)
    return g * v / np.sqrt((v**2).sum(1, keepdims=True))


def spectral_norm(original, layer):
    """Algorithm 1: in training one step of power iteration from the vectors of the step before."""
    w, rule = rows(original), layer.parametrizations.weight[0]
    u, v = rule._u.numpy().copy(), rule._v.numpy().copy()
    if layer.training:
        u = w @ v / np.linalg.norm(w @ v)
        v = u @ w / np.linalg.norm(u @ w)
    return w / (u @ w @ v)


def weight_standardization(original, layer, eps=1e-5):
    w = rows(original)
    return np.array([(row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + eps) for row in w])


def scaled_weight_standardization(original, layer, gain=True, gamma=1.0, eps=1e-4):
    w = rows(original)
    gains = rows(layer.parametrizations.weight[0].gain) if gain else np.ones((len(w), 1))
    n = w.shape[1]
    return np.array(
        [gamma * g * (row - row.mean()) / np.sqrt(max(n * row.var(), eps)) for g, row in zip(gains, w, strict=True)]
    )


ORACLES = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "weight_standardization": weight_standardization,
    "scaled_weight_standardization": scaled_weight_standardization,
}
CASES = [
    *((name, {}) for name in NAMES),
    ("weight_standardization", {"eps": 1e-2}),
    ("scaled_weight_standardization", {"gain": False, "gamma": 2.0}),
    ("scaled_weight_standardization", {"eps": 1e2}),
]
# At a weight of variance 1 an output is as large as the root of the fan-in, and rounded accordingly.
SKIP = {"weight_standardization": {"keeps_dtype": "outputs of half precision are larger than its tolerance allows for"}}


def all_checks():
    for name, keywords in CASES:

        def reference(original, layer, name=name, keywords=keywords):
            return ORACLES[name](original, layer, **keywords).reshape(layer.weight.shape)

        norm, skip = normzoo.factory(name, **keywords), SKIP.get(name)
        for check in checks(norm, reference=reference, skip=skip):
            if keywords and str(check) != "agrees_with_reference":
                continue
            yield marked(check, "-".join([name, *(f"{key}={value}" for key, value in keywords.items())]))


def test_every_norm_of_weights_has_an_oracle():
    assert sorted(ORACLES) == NAMES


@pytest.mark.parametrize("check", list(all_checks()))
def test_conformance(check):
    check()


@pytest.mark.parametrize("norm", NAMES)
def test_takes_a_layer_and_returns_it(norm):
    conv = nn.Conv2d(3, 8, 3)
    assert normzoo.create(norm, conv) is conv
    assert isinstance(conv, nn.Conv2d)
    assert normzoo.factory(norm)(nn.Linear(4, 2)).weight.shape == (2, 4)
    with pytest.raises(TypeError, match="unknown keyword 'epsilon'"):
        normzoo.create(norm, conv, epsilon=1)


@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weight_in_other_dtypes(norm, dtype):
    torch.manual_seed(0)
    layer = normzoo.create(norm, nn.Linear(32, 8)).to(dtype)
    originals = [p for key, p in layer.named_parameters() if "original" in key]
    original = [p.double() for p in originals] if len(originals) > 1 else originals[0].double()
    layer.eval()
    assert layer.weight.dtype == dtype
    expected = torch.from_numpy(ORACLES[norm](original, copy.deepcopy(layer).double()))
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(layer.weight.double(), expected, rtol=20 * step, atol=20 * step)


@pytest.mark.parametrize("norm", NAMES)
def test_round_trips(norm):
    one, other = (normzoo.create(norm, nn.Conv1d(4, 6, 3)).double().eval() for _ in range(2))
    other.load_state_dict(one.state_dict())
    twin, x = copy.deepcopy(one), torch.randn(2, 4, 5, dtype=torch.float64)
    for layer in (other, twin):
        torch.testing.assert_close(layer(x), one(x), rtol=0, atol=0)
    weight = one.weight.detach().clone()
    assert parametrize.remove_parametrizations(one, "weight") is one
    assert sorted(one.state_dict()) == ["bias", "weight"]
    torch.testing.assert_close(one.weight.detach(), weight, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["weight_norm", "weight_standardization", "scaled_weight_standardization"])
def test_setting_the_weight_sets_what_is_normalized(norm):
    layer, w = normzoo.create(norm, nn.Linear(4, 3)), torch.randn(3, 4)
    layer.weight = w
    parametrization = normzoo.create(norm, nn.Linear(4, 3))
    parametrization.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.weight, parametrization.weight)
    if norm == "weight_norm":
        torch.testing.assert_close(layer.weight, w)
    else:
        torch.testing.assert_close(layer.weight.mean(1), torch.zeros(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_agrees_with_torch(dim):
    ours, theirs = nn.Conv1d(4, 6, 3).double(), nn.Conv1d(4, 6, 3).double()
    theirs.load_state_dict(ours.state_dict())
    weight = ours.weight.detach().clone()
    normzoo.create("weight_norm", ours, dim=dim)
    parametrizations.weight_norm(theirs, dim=dim)
    assert isinstance(ours.parametrizations.weight[0], parametrizations._WeightNorm)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.weight.detach(), weight)
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    results = [torch.autograd.grad(layer(x).pow(3).sum(), list(layer.parameters())) for layer in (ours, theirs)]
    torch.testing.assert_close(*results)


def test_weight_norm_loads_what_torchs_old_one_saved():
    state = normzoo.create("weight_norm", nn.Linear(4, 3)).state_dict()
    old = {"bias": state["bias"], "weight_g": torch.rand(3, 1), "weight_v": torch.randn(3, 4)}
    layer = normzoo.create("weight_norm", nn.Linear(4, 3))
    layer.load_state_dict(dict(old))
    torch.testing.assert_close(layer.weight, old["weight_g"] * nn.functional.normalize(old["weight_v"]))


def test_spectral_norm_agrees_with_torch():
    for build in (lambda: nn.Linear(5, 4), lambda: nn.ConvTranspose1d(5, 4, 3)):
        ours, theirs = build().double(), build().double()
        theirs.load_state_dict(ours.state_dict())
        torch.manual_seed(1)
        normzoo.create("spectral_norm", ours, n_power_iterations=2)
        torch.manual_seed(1)
        parametrizations.spectral_norm(theirs, n_power_iterations=2)
        assert isinstance(ours.parametrizations.weight[0], parametrizations._SpectralNorm)
        for _ in range(3):
            torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_spectral_norm_bounds_what_a_layer_does():
    layer = normzoo.create("spectral_norm", nn.Linear(20, 30)).double()
    for _ in range(200):
        weight = layer.weight.detach()
    np.testing.assert_allclose(np.linalg.svd(weight.numpy())[1][0], 1, rtol=1e-4)


@pytest.mark.parametrize("norm", ["weight_standardization", "scaled_weight_standardization"])
@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(6, 4, 3), nn.LSTM(6, 4)], ids=repr
)
def test_weights_of_an_output_are_standardized(norm, layer):
    tensor_name = "weight_hh_l0" if isinstance(layer, nn.LSTM) else "weight"
    layer = normzoo.create(norm, copy.deepcopy(layer).double(), tensor_name=tensor_name)
    weight = getattr(layer, tensor_name)
    output = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    output = output.flatten(1)
    torch.testing.assert_close(output.mean(1), torch.zeros(len(output), dtype=torch.float64), rtol=0, atol=1e-12)
    size = 1 if norm == "weight_standardization" else 1 / output.shape[1]
    torch.testing.assert_close(output.square().mean(1) / size, torch.ones_like(output[:, 0]), rtol=1e-2, atol=0)


def test_weight_standardization_and_its_authors_code():
    """Which takes the unbiased deviation: the ratio of the two is one number for a layer."""
    layer = normzoo.create("weight_standardization", nn.Conv2d(16, 8, 3).double(), eps=1e-12)
    w = layer.parametrizations.weight.original
    std, mean = torch.std_mean(w, dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(layer.weight, (w - mean) / std * (144 / 143) ** 0.5)


def test_scaled_weight_standardization_keeps_the_variance_of_a_signal():
    """Through ten layers with ReLU, of inputs of whatever mean; and channels keep no mean (Brock et al., section 4)."""
    torch.manual_seed(0)
    gamma = (2 / (1 - 1 / np.pi)) ** 0.5
    x = torch.randn(512, 256) + 3
    for depth in range(10):
        linear = nn.Linear(256, 256, bias=False)
        layer = normzoo.create("scaled_weight_standardization", linear, gamma=1.0 if depth == 0 else gamma)
        x = layer(x if depth == 0 else x.relu())
        assert 0.8 < x.var(0).mean() < 1.2
        assert x.mean().abs() < 0.1


@pytest.mark.parametrize("gain", [True, False])
def test_gain_is_learned_or_not(gain):
    layer = normzoo.create("scaled_weight_standardization", nn.Conv2d(3, 5, 3), gain=gain)
    names = {key: tuple(p.shape) for key, p in layer.named_parameters()}
    assert names == {
        "bias": (5,),
        "parametrizations.weight.original": (5, 3, 3, 3),
        **({"parametrizations.weight.0.gain": (5, 1, 1, 1)} if gain else {}),
    }


@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (64, "takes the layer whose weight it normalizes; got 64: put it on"),
        (nn.ReLU(), "whose weight has 2 dimensions or more; got ReLU"),
        (nn.BatchNorm2d(4), "whose weight has 2 dimensions or more; got BatchNorm2d"),
    ],
    ids=str,
)
def test_what_has_no_weight_is_refused(norm, layer, words):
    with pytest.raises(normzoo.UserError, match=words) as refusal:
        normzoo.create(norm, layer)
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize("norm", ["weight_standardization", "scaled_weight_standardization"])
def test_an_output_of_one_weight_is_refused(norm):
    for layer in (nn.Conv2d(4, 4, 1, groups=4), nn.Linear(1, 4), nn.ConvTranspose1d(1, 4, 1)):
        with pytest.raises(normzoo.UserError, match="at least 2 weights to an output"):
            normzoo.create(norm, layer)
    with pytest.raises(normzoo.UserError, match="transposed convolution with groups=2"):
        normzoo.create(norm, nn.ConvTranspose1d(4, 4, 3, groups=2))


@pytest.mark.parametrize("norm", NAMES)
def test_first_parameter_is_the_layer(norm):
    first, *rest = inspect.signature(normzoo.info(norm).build).parameters.values()
    assert first.name == "module"
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)


def test_weight_norm_says_that_minus_one_is_the_whole_tensor():
    """As in torch, where -2 is the last dimension but one."""
    with pytest.raises(
        ValueError, match=r"0 to 3 or -4 to -1 \(None or -1 for one length of the whole tensor\).*got 4"
    ):
        normzoo.create("weight_norm", nn.Conv2d(3, 8, 3), dim=4)
    layer = normzoo.create("weight_norm", nn.Conv2d(3, 8, 3), dim=-1)
    assert layer.parametrizations.weight.original0.dim() == 0
    last_but_one = [normzoo.create("weight_norm", nn.Conv2d(3, 8, (3, 5)), dim=dim) for dim in (2, -2)]
    assert [layer.parametrizations.weight.original0.shape for layer in last_but_one] == [(1, 1, 3, 1)] * 2
