"""That README may say that every norm exports, which the conformance suite checks one by one."""

import pytest

import normzoo
from tests.norms import test_conformance, test_norm_conditional, test_norm_weights

MODULES = (test_conformance.all_checks, test_norm_conditional.conformance, test_norm_weights.all_checks)


@pytest.mark.parametrize("check", ["exports", "exports_to_onnx"])
def test_every_norm_is_asked_to_export_and_none_is_excused(check):
    asked = [param.values[0] for made in MODULES for param in made()]
    asked = [each for each in asked if str(each) == check]
    ours = {name for name in normzoo.list_norms() if normzoo.info(name).build.__module__.startswith("normzoo.norms.")}
    assert {each.subject.info.name for each in asked} == ours
    assert [each for each in asked if each.reason] == []
