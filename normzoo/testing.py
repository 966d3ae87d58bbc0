"""The conformance suite that every built-in norm passes, for your own norm: `check_norm("my_norm")`.

In pytest, one test for each property:

    @pytest.mark.parametrize("check", normzoo.testing.checks("my_norm"), ids=str)
    def test_my_norm(check):
        check()

It needs only torch. The facts that a norm is registered with select the checks; each check is a function in
`normzoo/_conformance/`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

from torch import nn

from normzoo._conformance import CHECKS, OF_KIND, SLOW, Subject
from normzoo.norm_info import NormInfo, check_facts
from normzoo.registry import info, list_norms

__all__ = ["Check", "check_norm", "checks"]


@dataclass(frozen=True)
class Check:
    """One property of one norm; calling it returns, raises AssertionError, or raises `unittest.SkipTest`."""

    function: Callable[[Subject], None]
    subject: Subject
    reason: str = ""
    """Why to skip it; empty to run it."""

    def __str__(self) -> str:
        return self.function.__name__

    def __call__(self) -> None:
        """Run the check."""
        if self.reason:
            raise SkipTest(self.reason)
        asked = " ".join((self.function.__doc__ or "").split())
        try:
            self.function(self.subject)
        except SkipTest:
            raise
        except Exception as error:
            how = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self.subject.info.name} fails {self}: {how}\n  It asks: {asked}") from error


def checks(
    norm: str | Callable[[int], nn.Module],
    *,
    reference: Callable[..., Any] | None = None,
    skip: Mapping[str, str] | None = None,
    fast: bool = False,
    num_features: int = 8,
    device: str = "cpu",
    **facts: Any,
) -> list[Check]:
    """Return the checks of one norm, to call one by one; takes the arguments of `check_norm`."""
    build, known = _resolve(norm, facts)
    functions = (*CHECKS, *OF_KIND[known.kind])
    names = [function.__name__ for function in functions]
    skip = dict(skip or {})
    for name in skip:
        if name not in names:
            raise ValueError(f"unknown check {name!r} in skip; checks: {', '.join(names)}")
    subject = Subject(build, known, num_features, device, reference)
    chosen = [function for function in functions if not (fast and function in SLOW)]
    return [Check(function, subject, skip.get(function.__name__, "")) for function in chosen]


def check_norm(norm: str | Callable[[int], nn.Module], **options: Any) -> dict[str, str]:
    """Run every check on a norm, and report all failures at once.

    Args:
        norm: A registered name, class or function, the result of `factory`, or any callable that takes a number of
            channels and returns a layer. For kind "conditional" the layer has a method `example_condition(x)`, which
            draws a condition for an input; for kind "weight" the callable takes a module instead of the channels.
        **options: Any of the following.
        reference: An independent formula `reference(x, layer)`, or `reference(x, condition, layer)`, that takes a
            float64 input and a layer in training mode, and returns the expected output as a tensor or an array. For a
            norm of weights it is `reference(original, module)`, from the original weight (a list, if the
            parametrization has several tensors) and the module to the expected weight.
        skip: Checks that do not apply, by name, with the reason.
        fast: Leave out the slow checks: first derivatives, large offsets, compiling and exporting.
        num_features: Channels to build the norm with.
        device: Device to run on.
        facts: Facts that override the registered ones; for a norm that is not registered, the arguments of `register`.

    Returns:
        "passed" for each check, or "skipped: " and the reason.

    Raises:
        AssertionError: Names each failing check, the difference and the requirement; the first line, which pytest's
            summary shows, has the first failure and the names of the others.
        TypeError: If a norm is not registered and `batch_dependent` is missing, or it needs arguments: pass
            `normzoo.factory(name, num_classes=10)`.
    """
    outcome: dict[str, str] = {}
    failures: dict[str, str] = {}
    for check in checks(norm, **options):
        try:
            check()
            outcome[str(check)] = "passed"
        except SkipTest as reason:
            outcome[str(check)] = f"skipped: {reason}"
        except AssertionError as error:
            failures[str(check)] = str(error)
    if failures:
        (_, said), *others = failures.items()
        first, _, rest = said.partition("\n")
        also = f"; it also fails {', '.join(name for name, _ in others)}" if others else ""
        raise AssertionError("\n\n".join([f"{first}{also}\n{rest}", *(text for _, text in others)]))
    return outcome


def _resolve(
    norm: str | Callable[[int], nn.Module], facts: dict[str, Any]
) -> tuple[Callable[..., nn.Module], NormInfo]:
    check_facts(facts)
    if isinstance(norm, str):
        known = info(norm)
        known.check_keywords(())
        norm = known.build
    else:
        built = norm.keywords.get("build", norm.func) if isinstance(norm, functools.partial) else norm
        registered = [each for each in map(info, list_norms()) if each.build is built]
        if not registered:
            name = getattr(norm, "__name__", repr(norm))
            if "batch_dependent" not in facts:
                raise TypeError(f"{name} is not registered: pass batch_dependent=True or False, as to register")
            return norm, NormInfo(name, norm, **facts)
        known = registered[0]
    return norm, dataclasses.replace(known, **facts)
