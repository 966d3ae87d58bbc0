"""Tests of norms run over the registry: a norm that is registered is tested."""

import pytest

import normzoo
from tests.norms.norm_cases import NAMES, NOT_STANDARDIZING
from tests.norms.oracles import KEYWORDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`name`, `name, rank` and `name, keywords` take every norm, `normalizer` all but the identity.

    `standardizer` takes those that subtract a mean of the input and divide by its deviation.
    """
    if "standardizer" in metafunc.fixturenames:
        metafunc.parametrize("standardizer", [name for name in NAMES if name not in NOT_STANDARDIZING])
    if "normalizer" in metafunc.fixturenames:
        metafunc.parametrize("normalizer", [name for name in NAMES if name != "identity"])
    if "name" not in metafunc.fixturenames:
        return
    if "keywords" in metafunc.fixturenames:
        cases = [(name, keywords) for name in NAMES for keywords in ({}, *KEYWORDS.get(name, []))]
        ids = ["-".join([name, *(f"{key}={value}" for key, value in keywords.items())]) for name, keywords in cases]
        metafunc.parametrize(("name", "keywords"), cases, ids=ids)
    elif "rank" in metafunc.fixturenames:
        metafunc.parametrize(("name", "rank"), [(name, rank) for name in NAMES for rank in normzoo.info(name).ranks])
    else:
        metafunc.parametrize("name", NAMES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What torch's compilers do with each norm is work of theirs: other checks lead through the same lines of ours."""
    for item in items:
        check = getattr(item, "callspec", None) and item.callspec.params.get("check")
        if str(check) in ("compiles", "compiles_for_any_size", "exports", "exports_to_onnx"):
            item.add_marker("untraced")
