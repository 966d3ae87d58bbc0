"""The functions of the toolkit are names of the package."""

import pytest

import normzoo


@pytest.mark.parametrize("name", normzoo._SURGERY)
def test_every_function_is_a_name_of_the_package(name):
    assert getattr(normzoo, name).__name__ == name
