"""What a sweep's plan says of a cell, each question asked once, is what a check of that cell alone says."""

import resource
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

import normzoo
from normzoo.errors import UserError
from normzoo.sweep import precheck as module
from normzoo.sweep.precheck import Precheck
from normzoo.training.check import check_cell
from normzoo.training.config import CellConfig, parse
from normzoo.training.instantiate import build_data

Compose = Callable[..., dict[str, Any]]
Cells = Iterator[dict[str, Any]]


def alone(cell: CellConfig, known: dict[str, Any]) -> str | None:
    """What the check of this cell alone says; None if nothing is wrong with it."""
    if cell.invalid is not None:
        return cell.invalid
    key = repr(cell.data)
    if key not in known:
        known[key] = build_data(cell.changed(batch_size_per_device=1))
        known[key].prepare_data()
        known[key].setup("fit")
    try:
        check_cell(cell, known[key])
    except UserError as error:
        return str(error)
    return None


def compare(cells: Cells) -> list[str | None]:
    precheck, known = Precheck(devices_here=False), {}
    found = []
    for cell in cells:
        parsed = parse(cell)
        expected = alone(parsed, known)
        assert precheck.of(parsed)[0] == expected, cell
        assert precheck.of(parsed.changed(seed=7))[0] == expected
        found.append(expected)
    return found


def norms() -> list[str]:
    return normzoo.list_norms(kind="layer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "placement", "batches"), [("plain_cnn", "pre_act", (1, 6)), ("mlp", "post_act", (1,))]
)
def test_every_norm_at_small_batches(config: Compose, model: str, placement: str, batches: tuple[int, ...]) -> None:
    base = config(f"model={model}", f"placement={placement}")

    def cells() -> Cells:
        for norm, batch in product(norms(), batches):
            yield {**base, "norm": {"name": norm}, "batch_size_per_device": batch}

    found = compare(cells())
    assert 0 < sum(refused is not None for refused in found) < len(found)


@pytest.mark.slow
def test_whatever_matters(config: Compose) -> None:
    changes: list[tuple[str, ...]] = [
        (), ("norm=group_norm", "+norm.num_groups=3"),
        ("norm=instance_norm",), ("norm=instance_norm", "placement=first_only"),
        ("norm=instance_norm", "placement=none"),
        ("norm=instance_norm", "data.image_size=16"), ("batch_size_per_device=1",), ("batch_size_per_device=97",),
        ("batch_size_per_device=49", "trainer.devices=2"), ("batch_size_per_device=0",), ("batch_size_per_device=x",),
        ("norm=sync_batch_norm", "batch_size_per_device=1"),
        ("norm=sync_batch_norm", "batch_size_per_device=1", "trainer.devices=2"),
        ("norm=ghost_batch_norm", "norm.group_size=3"), ("norm=ghost_batch_norm", "norm.group_size=1"),
        ("data.train_size=89", "data.drop_last=false"), ("data.train_size=90", "data.drop_last=false"),
        ("data.train_size=89", "data.drop_last=false", "trainer.limit_train_batches=11"),
        ("trainer.accumulate_grad_batches=13",), ("trainer.accumulate_grad_batches=0",),
        ("optimizer.trains=norms",), ("optimizer.trains=norms", "norm=identity"), ("optimizer.trains=sampled",),
        ("optimizer.trains=x",), ("optimizer.lr_rule=x",), ("optimizer.base_lr=-1",),
        ("optimizer.schedule=x",), ("model.widths=[4,x]",), ("+model.x=1",), ("+norm.x=1",),
        ("model=mlp", "model.image_size=9"), ("model=mlp", "model.image_size=null"), ("model=lstm",),
        ("model=lstm", "placement=post_act"), ("model=vgg6",), ("norm.eps=???",),
    ]  # fmt: skip
    found = compare(config(*overrides) for overrides in changes)
    assert found.count(None) > 10
    assert len(set(found)) > 20


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list to which each model is added that is built."""
    built: list[object] = []
    module_build = module.build_model

    def counted(*arguments: Any) -> Any:
        built.append(arguments)
        return module_build(*arguments)

    monkeypatch.setattr(module, "build_model", counted)
    return built


def test_a_model_is_built_once_for_all_seeds_and_rates(config: Compose, built: list[object]) -> None:
    base, precheck = config(), Precheck(devices_here=False)
    for norm, batch, seed, rate in product(("batch_norm", "group_norm"), (2, 4), (0, 1), (0.1, 0.2)):
        optimizer = {**base["optimizer"], "base_lr": rate}
        cell = {**base, "norm": {"name": norm}, "batch_size_per_device": batch, "seed": seed, "optimizer": optimizer}
        assert precheck.of(parse(cell))[0] is None
    assert len(built) == 4  # of two norms and two batch sizes


def test_a_norm_names_the_shape_that_it_cannot_take(config: Compose) -> None:
    precheck = Precheck(devices_here=False)
    for batch in (2, 4):
        refused, _ = precheck.of(parse(config("norm=instance_norm", f"batch_size_per_device={batch}")))
        assert refused is not None
        assert f"got the shape ({batch}, " in refused


def test_large_inputs_take_no_memory(config: Compose) -> None:
    cell = parse(config("data.train_size=4000", "batch_size_per_device=4000", "data.image_size=32", "model=vgg16"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Precheck(devices_here=False).of(cell) == (None, 4000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB; one activation has a million
