"""Placement: which stage is normalized, and what is refused."""

import dataclasses
import pickle

import pytest

from normzoo import UserError
from normzoo.models.blocks import ORDERS, PLACES, Placement


@pytest.mark.parametrize(
    ("where", "stages"),
    [
        ("all", [0, 1, 2, 3]),
        ("none", []),
        ("first", [0]),
        ("last", [3]),
        ("all_but_last", [0, 1, 2]),
        ([0, 2], [0, 2]),
        ((3, 1), [1, 3]),
        ([], []),
    ],
)
def test_stages_of_four(where, stages):
    placement = Placement(where=where)
    assert [stage for stage in range(4) if placement.at(stage, 4)] == stages


def test_a_single_stage_is_both_first_and_last():
    at = {where: Placement(where=where).at(0, 1) for where in PLACES}
    assert at == {"all": True, "none": False, "first": True, "last": True, "all_but_last": False}


def test_the_default_is_before_the_activation_everywhere():
    assert Placement() == Placement(order="pre_act", where="all")


def test_it_is_a_value():
    placement = Placement("post_act", [0, 1])
    assert placement == Placement("post_act", (0, 1))
    assert hash(placement) == hash(Placement("post_act", (0, 1)))
    assert pickle.loads(pickle.dumps(placement)) == placement
    with pytest.raises(dataclasses.FrozenInstanceError):
        placement.order = "pre_act"


def test_a_list_that_changes_later_does_not_change_it():
    stages = [0]
    placement = Placement(where=stages)
    stages.append(1)
    assert not placement.at(1, 2)


@pytest.mark.parametrize("order", ["preact", "", None, "none"])
def test_an_unknown_order_is_refused_with_the_known_ones(order):
    with pytest.raises(UserError) as error:
        Placement(order=order)
    assert repr(order) in str(error.value)
    assert all(known in str(error.value) for known in ORDERS)


@pytest.mark.parametrize("where", ["everywhere", "0", 2, None, [-1], [0.0], [True], ["first"], {"first": 1}])
def test_an_unknown_place_is_refused_with_the_known_ones(where):
    with pytest.raises(UserError) as error:
        Placement(where=where)
    assert repr(where) in str(error.value)
    assert all(known in str(error.value) for known in (*PLACES, "[0, 1]"))


def test_a_stage_that_the_model_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"where=\[0, 4\] names stage 4, but this model has 4 stages: 0 to 3"):
        Placement(where=[0, 4]).at(0, 4)


@pytest.mark.parametrize("stage", [-1, 4])
def test_a_model_may_only_ask_for_its_own_stages(stage):
    with pytest.raises(ValueError, match="not one of 4 stages"):
        Placement().at(stage, 4)
