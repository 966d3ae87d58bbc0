"""What a norm is not defined for is refused in words that name the layer, the shape and the mend."""

import copy
import itertools

import pytest
import torch

import normzoo
from tests.norms.conditional_oracles import NEEDED
from tests.norms.norm_cases import build

STATISTIC_OF_ONE_VALUE = [
    ("batch_norm", {}, (1, 4), "larger batch"),
    ("batch_norm", {}, (1, 4, 1, 1), "larger batch"),
    ("batch_norm", {"momentum": None}, (1, 4, 1, 1), "larger batch"),
    ("batch_norm_scratch", {}, (1, 4, 1, 1), "larger batch"),
    ("sync_batch_norm", {}, (1, 4, 1, 1), "larger batch"),
    ("ghost_batch_norm", {"group_size": 1}, (8, 4, 1, 1), "larger group_size"),
    ("ghost_batch_norm", {"group_size": 2}, (5, 4, 1, 1), "single sample left over"),
    ("ghost_batch_norm", {"group_size": 2}, (1, 4), "larger group_size"),
    ("instance_norm", {}, (8, 4, 1, 1), "larger map"),
    ("instance_norm", {}, (8, 4), "larger map"),
    ("instance_norm", {"track_running_stats": True}, (8, 4, 1), "larger map"),
    ("instance_norm_scratch", {}, (8, 4, 1, 1, 1), "larger map"),
    ("group_norm", {"num_groups": 4}, (8, 4, 1, 1), "fewer groups"),
    ("group_norm", {"channels_per_group": 1}, (8, 4), "fewer groups"),
    ("group_norm_scratch", {"num_groups": 4}, (8, 4, 1, 1), "fewer groups"),
]


@pytest.mark.parametrize(("norm", "keywords", "shape", "mend"), STATISTIC_OF_ONE_VALUE)
def test_a_statistic_over_one_value(norm, keywords, shape, mend):
    layer = build(norm, channels=4, **keywords)
    with pytest.raises(ValueError, match="a single value for each mean and variance") as refusal:
        layer(torch.randn(shape, dtype=torch.float64))
    words = str(refusal.value)
    assert words.startswith(repr(layer))
    assert str(shape) in words
    assert mend in words
    assert isinstance(refusal.value, normzoo.UserError), "so that the command line prints it as it is"


@pytest.mark.parametrize("norm", ["layer_norm", "layer_norm_scratch", "layer_norm_channel"])
def test_a_sample_of_one_value(norm):
    layer = build(norm, channels=1)
    with pytest.raises(ValueError, match="more channels"):
        layer(torch.randn(8, 1, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["instance_norm", "instance_norm_scratch", "group_norm"])
def test_refused_in_evaluation_too_where_it_uses_the_input(norm):
    layer = build(norm, channels=2, **({"num_groups": 2} if norm == "group_norm" else {})).eval()
    with pytest.raises(ValueError, match="a single value"):
        layer(torch.randn(8, 2, 1, 1, dtype=torch.float64))


def test_batch_statistics_in_evaluation_are_refused_alike():
    for norm in ("batch_norm", "batch_norm_scratch", "ghost_batch_norm", "sync_batch_norm"):
        layer = build(norm, channels=4, track_running_stats=False).eval()
        with pytest.raises(ValueError, match="a single value"):
            layer(torch.randn(1, 4, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "ghost_batch_norm", "sync_batch_norm"])
def test_one_value_is_welcome_to_running_statistics(norm):
    layer = build(norm, channels=4).eval()
    assert layer(torch.randn(1, 4, 1, 1, dtype=torch.float64)).isfinite().all()
    assert build("instance_norm", track_running_stats=True).eval()(torch.randn(1, 8, 1).double()).isfinite().all()


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_scratch", "ghost_batch_norm", "sync_batch_norm"])
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 9)])
def test_a_refusal_leaves_the_running_statistics(norm, shape):
    layer = build(norm)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(normzoo.UserError):
        layer(torch.randn(shape, dtype=torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128]
)
def test_numbers_that_are_not_floating_point(name, dtype):
    x = torch.ones(6, 8, 3, 3).to(dtype)
    for layer in (build(name), build(name).eval()):
        with pytest.raises(TypeError, match=rf"takes floating-point numbers; got {dtype}: give it") as refusal:
            layer(x)
        assert str(refusal.value).startswith(f"{type(layer).__name__}(")
        assert isinstance(refusal.value, normzoo.UserError)


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="conditional"))
def test_numbers_that_are_not_floating_point_with_a_condition(norm):
    layer = normzoo.create(norm, 8, **NEEDED[norm])
    x = torch.ones(6, 8, 3, 3)
    condition = layer.example_condition(x)
    with pytest.raises(TypeError, match=r"takes floating-point numbers; got torch.uint8: give it x.float\(\)"):
        layer(x.byte(), condition)
    with pytest.raises(TypeError, match=r"takes as condition .*, of real numbers; got torch.complex64"):
        layer(x, condition.to(torch.complex64))


@pytest.mark.parametrize("norm", [n for n in normzoo.list_norms() if normzoo.info(n).kind != "weight"])
def test_what_is_not_a_tensor(norm):
    """Also without the factory, and in place of a condition or without one."""
    built = normzoo.info(norm).build(8, **NEEDED.get(norm, {}))
    x, conditional = torch.ones(6, 8, 3, 3), normzoo.info(norm).kind == "conditional"
    calls = [((), "nothing"), (([1.0, 2.0],), "list"), ((None,), "NoneType"), ((x.numpy(),), "ndarray")]
    calls += [((x,), "Tensor"), ((x, [0] * 6), "Tensor, list")] if conditional else []
    wanted = "input, condition" if conditional else "input"
    for layer, (given, got) in itertools.product((built, copy.deepcopy(built).eval()), calls):
        with pytest.raises(TypeError, match=rf"must be called with .*, as layer\({wanted}\); got {got}$") as refusal:
            layer(*given)
        assert str(refusal.value).startswith(type(layer).__name__)
        assert isinstance(refusal.value, normzoo.UserError)


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="weight"))
def test_weights_that_are_not_floating_point(norm):
    with pytest.raises(TypeError, match=rf"{norm} takes floating-point numbers; got torch.complex64"):
        normzoo.create(norm, torch.nn.Conv2d(8, 8, 3, dtype=torch.complex64))
    layer = normzoo.create(norm, torch.nn.Conv2d(8, 8, 3))
    with pytest.raises(RuntimeError):  # of torch's convolution, to which the input goes
        layer(torch.ones(6, 8, 3, 3, dtype=torch.uint8))


@pytest.mark.parametrize("norm", ["conditional_batch_norm", "domain_specific_batch_norm"])
def test_labels_of_any_whole_numbers(norm):
    """As an index, uint8 and bool would be a mask."""
    layer, x = normzoo.create(norm, 8, **NEEDED[norm]).eval(), torch.randn(2, 8, 3, 3)
    torch.nn.init.uniform_(layer.weight)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        torch.testing.assert_close(layer(x, torch.tensor([1, 0], dtype=dtype)), layer(x, torch.tensor([1, 0])))
    with pytest.raises(ValueError, match=r"whole numbers; got torch.bool"):
        layer(x, torch.tensor([True, False]))


@pytest.mark.parametrize("shape", [(2, 9, 3, 3), (2, 4, 8, 8), (8,), ()])
def test_wrong_channels(normalizer, shape):
    layer = build(normalizer)
    with pytest.raises(ValueError, match="C = 8 channels") as refusal:
        layer(torch.randn(shape, dtype=torch.float64))
    assert f"got the shape {shape}" in str(refusal.value)


def test_wrong_channels_of_tokens():
    with pytest.raises(ValueError, match="C at dimension -1 with C = 8 channels"):
        build("layer_norm_channel", channel_dim=-1)(torch.randn(2, 8, 4, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["layer_norm", "group_norm", "batch_norm"])
def test_tokens_are_sent_to_a_norm_that_takes_them(norm):
    with pytest.raises(ValueError, match=r"build layer_norm_channel .* with channel_dim=-1, or give .* x.movedim"):
        build(norm)(torch.randn(2, 5, 8, dtype=torch.float64))
    assert build("layer_norm_channel", channel_dim=-1)(torch.randn(2, 5, 8, dtype=torch.float64)).shape == (2, 5, 8)


@pytest.mark.parametrize("norm", ["layer_norm_channel", "rms_norm", "power_norm"])
@pytest.mark.parametrize(("built", "mend", "shape"), [(1, -1, (2, 5, 8)), (-1, 1, (2, 8, 5))])
def test_channels_elsewhere_are_mended_by_channel_dim(norm, built, mend, shape):
    x = torch.randn(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"build the layer with channel_dim={mend}"):
        build(norm, channel_dim=built)(x)
    assert build(norm, channel_dim=mend)(x).shape == shape


@pytest.mark.parametrize("norm", ["group_norm", "group_norm_scratch"])
def test_groups_that_do_not_divide_the_channels(norm):
    with pytest.raises(ValueError, match=r"12 channels .* 5 groups: num_groups must be one of \[1, 2, 3, 4, 6, 12\]"):
        normzoo.create(norm, 12, num_groups=5)
    with pytest.raises(ValueError, match=r"groups of 5: channels_per_group must be one of \[1, 2, 3, 4, 6, 12\]"):
        normzoo.create(norm, 12, channels_per_group=5)
    with pytest.raises(ValueError, match="num_groups must be 1 or more; got 0"):
        normzoo.create(norm, 12, num_groups=0)
    with pytest.raises(ValueError, match="channels_per_group must be 1 or more; got -2"):
        normzoo.create(norm, 12, channels_per_group=-2)
    with pytest.raises(ValueError, match="give one of them"):
        normzoo.create(norm, 12, num_groups=4, channels_per_group=3)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (3, 1), (8, 1), (15, 1), (16, 2), (24, 3), (48, 6), (62, 2), (64, 8), (96, 12), (256, 32), (2048, 32)],
)
def test_default_number_of_groups(channels, groups):
    """The largest divisor that is at most 32 and leaves eight channels in a group."""
    assert normzoo.create("group_norm", channels).num_groups == groups


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (16, 1), (8, 1), (48, 3)])
def test_groups_of_sixteen_channels(channels, groups):
    assert normzoo.create("group_norm", channels, channels_per_group=16).num_groups == groups


def test_other_arguments_that_cannot_be():
    with pytest.raises(ValueError, match="group_size is a number of samples, 1 or more; got 0"):
        normzoo.create("ghost_batch_norm", 8, group_size=0)
    for fraction in (0.0, 1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.999; got"):
            normzoo.create("batch_norm_scratch", 8, moving_average_fraction=fraction)


@pytest.mark.parametrize(
    ("norm", "keywords", "shape", "count"),
    [
        ("batch_norm", {}, (4, 8, 3, 5), 60),
        ("batch_norm", {}, (4, 8), 4),
        ("sync_batch_norm", {}, (4, 8, 3, 5), 60),
        ("ghost_batch_norm", {"group_size": 2}, (4, 8, 3, 5), 30),
        ("ghost_batch_norm", {"group_size": 2}, (5, 8, 3, 5), 15),
        ("ghost_batch_norm", {"group_size": 8}, (5, 8, 3, 5), 75),
        ("layer_norm", {}, (4, 8, 3, 5), 120),
        ("layer_norm_channel", {}, (4, 8, 3, 5), 8),
        ("instance_norm", {}, (4, 8, 3, 5), 15),
        ("group_norm", {"num_groups": 2}, (4, 8, 3, 5), 60),
    ],
)
def test_values_per_statistic(norm, keywords, shape, count):
    assert normzoo.create(norm, 8, **keywords).values_per_statistic(torch.Size(shape)) == count


def test_every_norm_with_a_statistic_counts_its_values(name):
    if normzoo.info(name).minimum_count > 1:
        assert hasattr(normzoo.create(name, 8), "values_per_statistic")
