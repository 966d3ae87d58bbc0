"""The experiments on failures, parts and federation, cut down to seconds: what their cells record is what is judged."""

from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.report.made_up import on_records
from tests.report.small_cells import ran

BY_CLASS = ("data.order=by_class", "data.classes_per_batch=2")
ROUND = "study.rounds=1"
ARMS: dict[str, list[tuple[str, ...]]] = {
    "train_test_mismatch": [
        ("batch_size_per_device=2",),
        ("batch_size_per_device=32",),
        ("batch_size_per_device=32", "data.val_shift.contrast=0.4"),
    ],
    "non_iid_batches": [
        (norm, *order)
        for norm in ("norm=batch_norm", "norm=batch_renorm", "norm=group_norm")
        for order in ((), BY_CLASS)
    ],
    "recurrent_nets": [("model.per_step=true",), ("model.per_step=false",), ("norm=layer_norm",), ("norm=identity",)],
    "gradient_accumulation": [
        (norm, *arm)
        for norm in ("norm=batch_norm", "norm=group_norm")
        for arm in (
            ("batch_size_per_device=32",),
            ("batch_size_per_device=2",),
            ("batch_size_per_device=2", "trainer.accumulate_grad_batches=16"),
        )
    ],
    "only_batch_norm": [(f"optimizer.trains={part}",) for part in ("all", "norms", "sampled", "last")],
    "federated_batch_norm": [
        ("norm=batch_norm", ROUND),
        ("norm=local_batch_norm", ROUND),
        ("norm=batch_norm", "study.skew=label", ROUND),
        ("norm=group_norm", "study.skew=label", ROUND),
    ],
    "fine_tuning": [
        (f"study.arm={arm}", "study.new_images=32", "study.pretrain_epochs=1", "optimizer.base_lr=0.02")
        for arm in (
            "as_is",
            "recalibrate",
            "frozen",
            "eval_mode",
            "recalibrate_freeze",
            "batch_renorm",
            "group_norm",
            "group_norm_calibrated",
        )
    ],
    "adaptation": [
        (f"study.severity={s}", "study.batch_sizes=[8,64]", "study.samples=64", "study.epochs=1") for s in (0, 1)
    ],
    "whitening": [("norm=batch_norm",), ("norm=decorrelated_batch_norm",), ("norm=iter_norm",)],
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ARMS)
def test_cells_record_what_is_judged_and_drawn(experiment: str, tmp_path: Path) -> None:
    small = ["data.val_size=64", *(["probe.channel_correlation.samples=64"] if experiment == "whitening" else [])]
    records = [ran(experiment, tmp_path / str(i), *small, *arm) for i, arm in enumerate(ARMS[experiment])]
    claim = on_records(import_module(f"normzoo.claims.{experiment}"))
    finding = claim.judge(records)
    assert finding.unmeasured == 0, [check.text for check in finding.checks if check.holds is None]
    assert "nan" not in finding.measured
    figure = Figure(layout="constrained")
    claim.draw(records, figure)
    figure.draw_without_rendering()
    assert all(axes.lines or axes.patches or axes.collections for axes in figure.axes)
