"""Verdicts on where BatchNorm fails, from made-up records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from normzoo.claims import (
    federated_batch_norm,
    gradient_accumulation,
    non_iid_batches,
    recurrent_nets,
    train_test_mismatch,
)
from normzoo.results import CellResult
from tests.report.made_up import made_up, on_records

federated_batch_norm, gradient_accumulation, non_iid_batches, recurrent_nets, train_test_mismatch = map(
    on_records, (federated_batch_norm, gradient_accumulation, non_iid_batches, recurrent_nets, train_test_mismatch)
)

SEEDS = range(3)


def errors(running: float, population: float | None = None, batch: float | None = None) -> dict[str, float | None]:
    return {
        "val_error_running": running,
        "val_error_population": running if population is None else population,
        "val_error_batch": running if batch is None else batch,
    }


def cells(root: Path, norm: str, *found: float, **config: Any) -> list[CellResult]:
    """A cell a seed, whose errors differ by a tenth of a point from seed to seed."""
    made = []
    for seed in SEEDS:
        metrics = errors(*(value + 0.1 * seed for value in found))
        curve = [{"epoch": epoch, **metrics} for epoch in (1, 2)]
        made.append(made_up(root, norm=norm, seed=seed, metrics=metrics, curve=curve, **config))
    return made


def drawn(claim: Any, records: list[CellResult]) -> Figure:
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    return figure


def recurrent(root: Path, per_step: float, shared: float, by_batch: float, layer: float, plain: float) -> Any:
    lstm: dict[bool, Mapping[str, Any]] = {own: {"name": "lstm", "per_step": own} for own in (True, False)}
    return [
        *cells(root, "batch_norm", per_step, per_step, by_batch, model=lstm[True]),
        *cells(root, "batch_norm", shared, shared, by_batch, model=lstm[False]),
        *cells(root, "layer_norm", layer, model=lstm[True]),
        *cells(root, "identity", plain, model=lstm[True]),
    ]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((2, 9, 2, 2, 5), "holds"),
        ((2, 9, 9, 2, 5), "holds in part"),  # not for the running statistics
        ((5, 5, 5, 9, 5), "does not hold here"),
    ],
)
def test_recurrent_nets(tmp_path: Path, found: tuple[float, ...], verdict: str) -> None:
    records = recurrent(tmp_path, *found)
    finding = recurrent_nets.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"BatchNorm, shared: {found[1] + 0.1:.1f} ± 0.1 % (3 seeds)" in finding.measured
    assert [len(axes.lines) > 3 for axes in drawn(recurrent_nets, records).axes] == [True, True]


def test_recurrent_nets_without_cells() -> None:
    assert recurrent_nets.judge([]).verdict == "not measured"


def by_class(root: Path, norm: str, shuffled: float, few: float) -> list[CellResult]:
    data = {"name": "mnist5k", "order": "by_class", "classes_per_batch": 2}
    return [
        *cells(root, norm, shuffled, data={"name": "mnist5k", "order": "shuffled"}),
        *cells(root, norm, few, few, few + 2, data=data),
    ]


@pytest.mark.parametrize(
    ("bn", "renorm", "gn", "verdict"),
    [
        ((6, 30), (6, 9), (8, 9), "holds"),
        ((6, 30), (6, 30), (8, 15), "holds in part"),
        ((6, 9), (6, 9), (8, 19), "does not hold here"),
    ],
)
def test_non_iid_batches(tmp_path: Path, bn: Any, renorm: Any, gn: Any, verdict: str) -> None:
    arms = {"batch_norm": bn, "batch_renorm": renorm, "group_norm": gn}
    records = [record for norm, found in arms.items() for record in by_class(tmp_path, norm, *found)]
    finding = non_iid_batches.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"BatchNorm: shuffled 6.1 ± 0.1 %, 2 classes {bn[1] + 0.1:.1f} ± 0.1 %" in finding.measured
    assert [len(axes.lines) > 3 for axes in drawn(non_iid_batches, records).axes] == [True, True]


def test_what_batches_of_few_classes_cost_is_counted_seed_by_seed(tmp_path: Path) -> None:
    def judged(bn: list[CellResult], gn: list[CellResult]) -> list[bool | None]:
        renorm = by_class(tmp_path, "batch_renorm", 6, 7)
        return [check.holds for check in non_iid_batches.judge([*bn, *renorm, *gn]).checks]

    bn, gn = by_class(tmp_path, "batch_norm", 6, 30), by_class(tmp_path, "group_norm", 8, 9)
    for i, error in enumerate((1.0, 50.0, 20.0)):  # of shuffled batches; each seed loses one point to few classes
        gn[i].metrics["val_error_running"], gn[i + 3].metrics["val_error_running"] = error, error + 1
    assert judged(bn, [*gn[:3], *reversed(gn[3:])]) == [True] * 4
    assert judged(bn, [gn[1], gn[2], gn[3], gn[4]]) == [True, True, None, None]  # other seeds on either side
    for record in bn[3:]:
        record.status = "diverged"
    assert judged(bn, gn) == [True, True, True, True]
    bn[3].status = "timeout"
    assert judged(bn, gn) == [None, None, None, True]
    bn[0].status = bn[3].status = "diverged"  # shuffled batches too: it is not the classes
    gn[3].status = "diverged"
    assert judged(bn, gn)[2:] == [False, False]


def accumulated(root: Path, norm: str, whole: float, in_parts: float, small: float) -> list[CellResult]:
    made = []
    for batch, count, error in ((32, 1, whole), (2, 16, in_parts), (2, 1, small)):
        trainer = {"name": "cpu", "accumulate_grad_batches": count}
        made += cells(root, norm, error, batch_size_per_device=batch, trainer=trainer)
    return made


@pytest.mark.parametrize(
    ("bn", "gn", "verdict"),
    [
        ((6, 50, 50), (8, 8, 7), "holds"),
        ((6, 20, 50), (8, 8, 7), "holds in part"),  # most of it is repaired
        ((6, 6, 50), (8, 20, 20), "does not hold here"),
        ((6, 6, 7), (8, 20, 20), "does not hold here"),
    ],
)
def test_gradient_accumulation(tmp_path: Path, bn: Any, gn: Any, verdict: str) -> None:
    records = accumulated(tmp_path, "batch_norm", *bn) + accumulated(tmp_path, "group_norm", *gn)
    finding = gradient_accumulation.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"16 batches of 2 {bn[1] + 0.1:.1f} ± 0.1 %" in finding.measured
    assert len(drawn(gradient_accumulation, records).axes[0].lines) > 6


def test_accumulated_gradients_of_nets_that_diverge(tmp_path: Path) -> None:
    gn = accumulated(tmp_path, "group_norm", 8, 8, 7)

    def judged(**statuses: str) -> list[bool | None]:
        bn = accumulated(tmp_path, "batch_norm", 6, 50, 50)
        for i, name in enumerate(("whole", "in_parts", "small")):
            for record in bn[3 * i : 3 * i + 3]:
                record.status = statuses.get(name, "ok")
        return [check.holds for check in gradient_accumulation.judge(bn + gn).checks]

    assert judged() == [True, True, True]
    assert judged(in_parts="diverged") == [True, True, True]
    assert judged(in_parts="diverged", small="diverged") == [True, True, True]
    assert judged(small="diverged") == [True, True, False]
    assert judged(whole="diverged") == [False, True, False]
    assert judged(in_parts="killed") == [None, True, None]
    gn[0].status = "diverged"
    assert judged() == [True, False, True]


def mismatched(root: Path, small: Any, large: Any, shifted: Any) -> list[CellResult]:
    shift = {"brightness": 0.0, "contrast": 0.4, "noise": 0.0}
    none = {"brightness": 0.0, "contrast": 1.0, "noise": 0.0}
    return [
        *cells(root, "batch_norm", *small, batch_size_per_device=2, data={"name": "mnist5k", "val_shift": none}),
        *cells(root, "batch_norm", *large, batch_size_per_device=32, data={"name": "mnist5k", "val_shift": none}),
        *cells(root, "batch_norm", *shifted, batch_size_per_device=32, data={"name": "mnist5k", "val_shift": shift}),
        *cells(root, "group_norm", 9.0, batch_size_per_device=32, data={"name": "mnist5k", "val_shift": shift}),
    ]


@pytest.mark.parametrize(
    ("small", "shifted", "verdict"),
    [
        ((50, 10, 10), (40, 40, 9), "holds"),
        ((50, 49, 48), (40, 40, 9), "holds in part"),  # it is not the statistics that a small batch fails for
        ((50, 49, 48), (9, 9, 9), "does not hold here"),
        ((9, 6, 6), (9, 9, 9), "does not hold here"),  # there was nothing to repair
    ],
)
def test_train_test_mismatch(tmp_path: Path, small: Any, shifted: Any, verdict: str) -> None:
    records = mismatched(tmp_path, small, (6, 6, 7), shifted)
    finding = train_test_mismatch.judge(records)
    assert finding.verdict == verdict
    assert len(finding.checks) == 3
    assert finding.unmeasured == 0
    assert "contrast 0.4: " in finding.measured
    assert [len(axes.lines) > 3 for axes in drawn(train_test_mismatch, records).axes] == [True, True]


def test_statistics_do_not_repair_what_diverged(tmp_path: Path) -> None:
    records = mismatched(tmp_path, (50, 10, 10), (6, 6, 7), (40, 40, 9))
    records[0].status = "diverged"
    assert [check.holds for check in train_test_mismatch.judge(records).checks] == [False, False, True]
    records[0].status = "oom"
    assert [check.holds for check in train_test_mismatch.judge(records).checks] == [None, None, True]


@pytest.mark.parametrize("claim", [non_iid_batches, gradient_accumulation, train_test_mismatch, federated_batch_norm])
def test_without_cells_nothing_is_measured(claim: Any) -> None:
    assert claim.judge([]).verdict == "not measured"


def federated(root: Path, norm: str, skew: str, *clients: float) -> list[CellResult]:
    made = []
    for seed in SEEDS:
        found: dict[str, float | None] = {f"error_{i}": error + 0.1 * seed for i, error in enumerate(clients)}
        mean = sum(clients) / len(clients) + 0.1 * seed
        found |= {"error_mean": mean, "error_all": mean, "error_worst": max(clients) + 0.1 * seed}
        rounds = [[2 * error for error in clients], list(clients)]
        names = [f"look {i}" for i in range(len(clients))]
        arrays = {"federated_errors": rounds, "federated_errors_all": rounds, "federated_clients": names}
        study = {"name": "federated", "skew": skew}
        made.append(made_up(root, norm=norm, seed=seed, metrics=found, arrays=arrays, study=study))
    return made


@pytest.mark.parametrize(
    ("bn", "fedbn", "labels", "verdict"),
    [
        ((10, 60), (8, 12), (9, 5), "holds"),
        ((10, 60), (8, 12), (5, 9), "holds in part"),
        ((10, 12), (9, 13), (5, 9), "does not hold here"),
    ],
)
def test_federated_batch_norm(tmp_path: Path, bn: Any, fedbn: Any, labels: Any, verdict: str) -> None:
    records = [
        *federated(tmp_path, "batch_norm", "feature", *bn),
        *federated(tmp_path, "local_batch_norm", "feature", *fedbn),
        *federated(tmp_path, "batch_norm", "label", labels[0], labels[0]),
        *federated(tmp_path, "group_norm", "label", labels[1], labels[1]),
    ]
    finding = federated_batch_norm.judge(records)
    assert finding.verdict == verdict
    assert finding.unmeasured == 0
    assert f"FedBN {sum(fedbn) / 2 + 0.1:.1f} ± 0.1 % (3 seeds)" in finding.measured
    assert len(drawn(federated_batch_norm, records).axes) == 4
    assert len(drawn(federated_batch_norm, federated(tmp_path, "batch_norm", "label", 5.0)).axes) == 2
