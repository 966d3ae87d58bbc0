"""What a norm says of itself when it is registered, held against what it does."""

import copy
import math
import re
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normzoo._conformance.subject import EXACT, Subject, cast, part

DIMENSIONS = {"N": r"\bN\b|\bsamples\b", "C": r"\bC\b", "*": r"\*|\bwindow\b"}
WORDS = {"N": "other samples", "C": "other channels", "*": "other positions"}


def facts_hold(norm: Subject) -> None:
    """batch_dependent, train_eval_differ, state, includes_activation and fused are as the layer behaves."""
    layer, given = norm.layer(), norm.given()
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    trained = layer(*given)
    written = {name for name, buffer in layer.named_buffers() if not torch.equal(before[name], buffer)}
    written = {re.sub(r"^parametrizations\.weight\.\d+\.", "", name) for name in written}
    assert written == set(norm.info.state), f"training writes {sorted(written)}; state is {norm.info.state}"
    if not written:
        again = torch.allclose(layer(*given), trained, rtol=EXACT)
        assert again, (
            "a second forward in training gives another output: what is remembered is no buffer, or it is random"
        )
    evaluated = layer.eval()(*given)
    parts = torch.cat([norm.layer()(*part(given, samples)) for samples in (slice(2), slice(2, None))])
    found = {
        "train_eval_differ": not torch.allclose(trained, evaluated, rtol=EXACT),
        "batch_dependent": not torch.allclose(trained, parts, rtol=EXACT),
        "includes_activation": getattr(layer, "includes_activation", False),
    }
    for fact, value in found.items():
        assert value == getattr(norm.info, fact), f"{fact} is {value}, and said to be {not value}"
    called = operations(norm.layer(torch.float32), cast(given, torch.float32))
    kernel = not called or any("norm" in name for name in called)
    assert kernel or not norm.info.fused, f"fused is said to be True, and no norm kernel of torch's is called: {called}"


def operations(layer: nn.Module, given: tuple[Tensor, ...]) -> list[str]:
    """The operations of torch's that a forward runs."""
    called: list[str] = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Noting():
        layer(*given)
    return called


def reduces_as_stated(norm: Subject) -> None:
    """A change of one value moves outputs along the dimensions that reduces_over names, and along no others."""
    norm.skip_weights()
    stated = norm.info.reduces_over
    if not stated:
        raise SkipTest("reduces_over is not stated")
    named = dimensions(stated)
    moved = reach(norm)
    for dim in sorted({dim for dims in moved for dim in dims} - named):
        raise AssertionError(f"a value moves outputs of {WORDS[dim]}, and reduces_over={stated!r} does not name {dim}")
    layer, (x, *_) = norm.layer(), norm.given()
    samples, channels, *positions = x.movedim(getattr(layer, "channel_dim", 1), 1).shape
    sizes = {"N": samples, "C": channels, "*": math.prod(positions)}
    for statistic in re.split(r";|,? and |,? then ", stated):
        dims = {dim for dim in dimensions(statistic) if sizes[dim] > 1}
        others = " and ".join(WORDS[dim] for dim in sorted(dims))
        assert any(dims <= each for each in moved), f"no value moves outputs of {others}; reduces_over is {stated!r}"
    if hasattr(layer, "values_per_statistic") and set(stated.split(", ")) <= set(sizes):
        count, expected = layer.values_per_statistic(x.shape), math.prod(sizes[dim] for dim in named)  # type: ignore[operator]
        said = f"values_per_statistic({tuple(x.shape)}) is {count}, and reduces_over={stated!r} means {expected}"
        assert count == expected, said


def dimensions(stated: str) -> set[str]:
    return {dim for dim, pattern in DIMENSIONS.items() if re.search(pattern, stated)}


def reach(norm: Subject) -> set[frozenset[str]]:
    """Along which dimensions outputs lie from a value whose change moves them: each combination that occurs."""
    x, *condition = norm.given()
    layer = norm.layer()
    dim = getattr(layer, "channel_dim", 1)
    y = copy.deepcopy(layer)(x, *condition).movedim(dim, 1)
    found = set()
    for sample in range(len(x)):
        for channel in (0, norm.num_features - 1):
            place = torch.tensor([sample, channel, *[1] * (x.dim() - 2)])
            changed = x.clone()
            changed.movedim(dim, 1)[tuple(place)] += 1
            shift = (copy.deepcopy(layer)(changed, *condition).movedim(dim, 1) - y).abs()
            for row in ((shift > EXACT * (1 + y.abs())).nonzero().cpu() != place).unique(dim=0).tolist():
                found.add(frozenset(d for d, other in zip("NC*", (*row[:2], any(row[2:])), strict=True) if other))
    return found


def bends_as_stated(norm: Subject) -> None:
    """includes_activation is said of a norm that bends, and of one whose outputs are cut off below."""
    x, *condition = norm.given()
    y, opposite, y2, opposite2 = (norm.layer()(t, *condition) for t in (x, -x, 1.3 * x.flip(0), -1.3 * x.flip(0)))
    if norm.info.includes_activation:
        straight = torch.allclose(y + opposite, y2 + opposite2, rtol=EXACT)
        assert not straight, "includes_activation is said to be True, and an input of the other sign gives just that"
    else:
        cut = (y == y.min()).float().mean()
        assert cut < 0.2, f"{cut:.0%} of the outputs are {y.min():g}, as by an activation; includes_activation is False"
