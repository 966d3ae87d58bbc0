"""What no norm can be built with is refused before it is: the norm, the argument, what was expected, what came."""

import inspect
import math

import pytest
import torch
from torch import nn

import normzoo
from normzoo.bench.references import NEEDED

NAMES = [name for name in normzoo.list_norms() if normzoo.info(name).build.__module__.startswith("normzoo.norms.")]
# Of each type of an argument, values of another.
NOT_OF = {
    bool: ["yes", 1.5, [True]],
    int: ["8", 1.5, [8], True],
    float: ["1e-5", [0.1], True, 1j],
    str: [3, ["weight"]],
}
# Values of the right type that no norm takes for an argument of this name.
OUT_OF_RANGE = {"eps": [-1, -1e-9, math.nan, math.inf], "momentum": [-0.1, 2, math.nan], "channel_dim": [0]}
# Whose every value is a number that some norm can do with.
ANY_NUMBER = {"alpha_init_value", "shift_init_value", "sigma", "alpha", "beta", "gamma", "k", "dim", "weight_offset"}


def arguments(name):
    """What the norm is built from, and what it cannot do without."""
    info = normzoo.info(name)
    first = nn.Conv2d(8, 8, 3) if info.kind == "weight" else 8
    return first, {key: NEEDED[key] for key, default in info.arguments.items() if default is inspect.Parameter.empty}


def bad_values(key, annotation):
    kinds = [kind for kind in NOT_OF if kind is annotation or annotation == kind | None]
    for kind in kinds:
        yield from ((value, TypeError) for value in NOT_OF[kind])
        yield from ((value, ValueError) for value in OUT_OF_RANGE.get(key, ()))
        if annotation is kind:
            yield None, TypeError
        if kind is float:
            yield math.nan, ValueError
        if kind in (int, float) and key not in (*ANY_NUMBER, *OUT_OF_RANGE):
            yield -1, ValueError


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_every_norm_is_checked(name):
    first, needed = arguments(name)
    title = normzoo.info(name).build.__name__
    for key, parameter in list(inspect.signature(normzoo.info(name).build).parameters.items())[1:]:
        for value, error in bad_values(key, parameter.annotation):
            with pytest.raises(normzoo.UserError, match=rf"^({name}|{title})\b.*{key}") as refusal:
                normzoo.create(name, first, **{**needed, key: value})
            assert type(refusal.value).__name__ == f"Argument{error.__name__}", (key, value)
            assert str(value) in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in NAMES if normzoo.info(name).kind != "weight"])
def test_a_number_of_channels_that_is_none(name):
    _, needed = arguments(name)
    build = normzoo.factory(name, **needed)
    for value in (0, -1, "64", 64.0, None, True, nn.Linear(2, 2)):
        error = ValueError if value in (0, -1) else TypeError
        with pytest.raises(error, match=rf"^{name}: num_features must be a whole number, 1 or more; got ") as refusal:
            normzoo.create(name, value, **needed)
        assert isinstance(refusal.value, normzoo.UserError)
        with pytest.raises(error, match=r"^\w+: num_features must be a whole number"):
            build(value)


def test_a_factory_refuses_before_the_first_layer_and_what_comes_with_it():
    with pytest.raises(ValueError, match="batch_norm: eps must be a number, 0 or more; got -1"):
        normzoo.factory("BN", eps=-1)
    with pytest.raises(ValueError, match="BatchNorm: momentum must be a number, from 0 to 1 or None; got 2"):
        normzoo.factory("BN")(8, momentum=2)


@pytest.mark.parametrize("name", ["group_norm", "iter_norm", "evo_norm_s0", "batch_channel_norm"])
def test_no_groups(name):
    with pytest.raises(ValueError, match=r"^\w+: num_groups must be 1 or more; got 0"):
        normzoo.create(name, 8, num_groups=0)


def refusal(make, *given, **options):
    try:
        make(*given, **options)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [n for n in normzoo.list_norms() if normzoo.info(n).kind != "weight"])
def test_a_factory_refuses_what_no_number_of_channels_makes_valid(name):
    """Numbers out of range, and options that exclude each other."""
    needed, found = arguments(name)[1], normzoo.info(name).arguments
    wrong = [{option: 0} for option, default in found.items() if type(default) is int or option in needed]
    for options in wrong:
        said = [refusal(normzoo.create, name, channels, **needed | options) for channels in (1, 8, 48)]
        assert refusal(normzoo.factory, name, **needed | options) == (said[0] if all(said) else ""), options
    if "channels_per_group" in found:
        excluded = refusal(normzoo.factory, name, num_groups=3, channels_per_group=16)
        assert "num_groups=3 and channels_per_group=16 are two ways to say one thing" in excluded
        assert normzoo.factory(name, num_groups=3)(96).num_groups == 3


@pytest.mark.parametrize("name", ["spade", "decorrelated_batch_norm"])
def test_a_factory_draws_no_random_numbers_and_needs_no_device(name):
    state, needed = torch.get_rng_state(), arguments(name)[1]
    normzoo.factory(name, device="cuda", **needed)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_a_dimension_that_a_weight_has_not(name):
    wrong = rf"^{name}: dim is one of the 2 of the weight, 0 to 1 or -2 to -1.*, whose shape is \(3, 4\); got 2"
    with pytest.raises(ValueError, match=wrong):
        normzoo.create(name, nn.Linear(4, 3), dim=2)


def test_what_torch_users_rely_on_is_taken():
    for keywords in ({"eps": 0}, {"momentum": 0.0}, {"momentum": 1}, {"momentum": None}, {"dtype": torch.float16}):
        normzoo.create("batch_norm", 8, **keywords)
    normzoo.create("rms_norm", 8, eps=None)
    with pytest.raises(TypeError, match=r"dtype must be a data type such as torch\.float32 or None; got 'float32'"):
        normzoo.create("batch_norm", 8, dtype="float32")


def test_a_norm_of_another_package_is_checked_too_where_its_annotations_can_be_read():
    @normzoo.register("annotated_in_strings", batch_dependent=False)
    def annotated(channels, eps: "float" = 1e-5, mode: "Unknown" = None, other=3) -> nn.Module:  # noqa: F821
        return nn.Identity()

    @normzoo.register("annotated_in_readable_strings", batch_dependent=False)
    def readable(channels, eps: "float" = 1e-5) -> nn.Module:
        return nn.Identity()

    try:
        normzoo.create("annotated_in_strings", 8, eps="not read", mode=object(), other="anything")
        with pytest.raises(ValueError, match="annotated_in_strings: channels must be a whole number, 1 or more; got 0"):
            normzoo.create("annotated_in_strings", 0)
        with pytest.raises(TypeError, match="annotated_in_readable_strings: eps must be a number, 0 or more; got 'x'"):
            normzoo.create("annotated_in_readable_strings", 8, eps="x")
    finally:
        normzoo.registry._forget("annotated_in_strings")
        normzoo.registry._forget("annotated_in_readable_strings")


def test_a_norm_of_weights_of_another_package_calls_its_layer_as_it_likes():
    names = ("annotated_weights", "plain_weights")

    @normzoo.register(names[0], kind="weight", batch_dependent=False)
    def annotated(layer: nn.Module) -> nn.Module:
        return layer

    @normzoo.register(names[1], kind="weight", batch_dependent=False)
    def plain(layer) -> nn.Module:
        return layer

    try:
        for name in names:
            layer = nn.Linear(4, 3)
            assert normzoo.create(name, layer) is layer
    finally:
        for name in names:
            normzoo.registry._forget(name)
