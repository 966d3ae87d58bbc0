"""One cell: its record, its repeatability, its three errors, and what becomes of a cell that dies."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import normzoo
from normzoo.errors import RefusedError, UserError
from normzoo.models.plain_cnn import PlainCNN
from normzoo.results import read_result
from normzoo.training.callbacks import EpochLines
from normzoo.training.cell import run_cell
from normzoo.training.config import parse
from normzoo.training.instantiate import schedule

Compose = Callable[..., dict[str, Any]]


def test_the_record_holds_config_metrics_curve_and_statistics(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("norm=batch_norm"), tmp_path)
    assert result == read_result(tmp_path)
    assert result.status == "ok"
    assert result.config["norm"]["name"] == "batch_norm"
    # The maps of plain_cnn on 8×8 images are 8, 4, 2 and 1 wide: n = batch · H · W.
    assert list(result.values_per_statistic.values()) == [8 * 64, 8 * 16, 8 * 4, 8]
    assert result.normalization_batch == 8
    assert [point["epoch"] for point in result.curve] == [1, 2]
    assert result.metrics["steps"] == 24
    for key in ("val_error_running", "val_error_population", "val_error_batch", "train_error"):
        assert 0 <= result.metrics[key] <= 100
    assert result.metrics["lr"] == pytest.approx(0.05 * 8 / 32)
    assert result.time["wall_s"] > 0
    assert result.time["ms_per_step"] > 0
    assert {"torch", "lightning", "python", "normzoo"} <= set(result.versions)
    assert result.device["type"] == "cpu"


def test_it_learns(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("norm=group_norm", "norm.channels_per_group=8", "trainer.max_epochs=8"), tmp_path)
    assert result.metrics["train_error"] < 20
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"] / 2


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm"])
def test_same_seed_same_result_bit_for_bit(config: Compose, tmp_path: Path, norm: str) -> None:
    first, second = (run_cell(config(f"norm={norm}"), tmp_path / name) for name in ("a", "b"))
    assert first.metrics == second.metrics
    assert first.curve == second.curve
    other = run_cell(config(f"norm={norm}", "seed=1"), tmp_path / "c")
    assert other.curve != first.curve


def test_the_three_errors_agree_for_a_norm_without_running_statistics(config: Compose, tmp_path: Path) -> None:
    metrics = run_cell(config("norm=layer_norm"), tmp_path).metrics
    assert metrics["val_error_running"] == metrics["val_error_population"] == metrics["val_error_batch"]


@pytest.mark.parametrize(("norm", "said"), [("group_norm", 1), ("batch_norm", 3)])
def test_the_line_of_an_epoch_says_as_many_errors_as_there_are(
    norm: str, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("normzoo.training.callbacks.log.info", lines.append)
    point = {"epoch": 1, "step": 2, "train_loss": 0.5, "train_error": 3.0}
    point |= dict.fromkeys(("val_error_running", "val_error_population", "val_error_batch"), 4.74)
    module: Any = SimpleNamespace(model=normzoo.create(norm, 8), curve=[point])
    EpochLines().on_validation_end(SimpleNamespace(is_global_zero=True, max_epochs=2), module)  # type: ignore[arg-type]
    (line,) = lines
    assert line.count("4.74 %") == said
    assert ("running 4.74 %" in line) == (said == 3)


def test_the_three_errors_part_for_batch_norm_at_batch_2(config: Compose, tmp_path: Path) -> None:
    metrics = run_cell(config("norm=batch_norm", "batch_size_per_device=2"), tmp_path).metrics
    assert metrics["val_error_batch"] != metrics["val_error_running"]


def test_a_validation_set_smaller_than_a_batch_leaves_the_batch_error_out(config: Compose, tmp_path: Path) -> None:
    metrics = run_cell(config("norm=batch_norm", "batch_size_per_device=48"), tmp_path).metrics
    assert metrics["val_error_batch"] is None
    assert metrics["val_error_running"] is not None


class Head(PlainCNN):
    """A plain CNN with a head of its own that is called in training alone, as those of Inception are."""

    def __init__(self, num_classes: int, **arguments: Any) -> None:
        super().__init__(num_classes=num_classes, **arguments)
        self.head = torch.nn.BatchNorm1d(num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return self.head(y) + y if self.training else y


def test_a_norm_that_is_called_in_training_alone_cannot_be_recomputed(config: Compose, tmp_path: Path) -> None:
    model = f"model._target_={__name__}.Head"
    result = run_cell(config("norm=group_norm", "norm.channels_per_group=4", "trainer.max_epochs=1", model), tmp_path)
    assert result.status == "ok"
    assert result.metrics["val_error_running"] is not None
    assert result.metrics["val_error_population"] is None


def test_a_cell_warns_of_statistics_over_two_values(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_cell(config("norm=batch_norm", "batch_size_per_device=2", "trainer.max_epochs=1"), tmp_path / "two")
    assert "stages.3.norm averages 2 values" in caplog.text
    caplog.clear()
    run_cell(config("norm=layer_norm", "trainer.max_epochs=1"), tmp_path / "many")
    assert "averages 2 values" not in caplog.text


def test_statistics_of_ghost_batch_norm_count_its_groups(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("norm=ghost_batch_norm", "norm.group_size=4"), tmp_path)
    assert min(result.values_per_statistic.values()) == 4
    assert result.normalization_batch == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("norm=instance_norm",), "(8, 64, 1, 1)"),
        (("norm=batch_norm", "batch_size_per_device=1"), "(1, 64, 1, 1)"),
        (("norm=group_norm", "norm.num_groups=3"), "3"),
        (("batch_size_per_device=97",), "97"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    config: Compose, tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(RefusedError, match=r"."):
        run_cell(config(*overrides), tmp_path)
    result = read_result(tmp_path)
    assert result.status == "refused"
    assert words in (result.reason or "")
    assert result.metrics == {}


def test_a_loss_that_is_not_finite_ends_the_cell_as_diverged(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("norm=identity", "optimizer.base_lr=1e18", "trainer.max_epochs=20"), tmp_path)
    assert result.status == "diverged"
    assert "not finite" in (result.reason or "")
    assert result.metrics["steps"] < 20 * 12
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)


def test_a_cell_that_raises_is_recorded_with_its_error(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the step is broken")

    monkeypatch.setattr("normzoo.training.module.Classifier.training_step", broken)
    with pytest.raises(RuntimeError, match="the step is broken"):
        run_cell(config(), tmp_path)
    result = read_result(tmp_path)
    assert (result.status, result.reason) == ("error", "RuntimeError: the step is broken")
    assert "Traceback" in (tmp_path / "error.txt").read_text()


def test_the_learning_rate_follows_the_global_batch(config: Compose) -> None:
    assert parse(config("batch_size_per_device=64")).lr == pytest.approx(0.1)
    assert parse(config("batch_size_per_device=64", "trainer.devices=2")).lr == pytest.approx(0.2)
    assert parse(config("batch_size_per_device=128", "optimizer.lr_rule=sqrt")).lr == pytest.approx(0.1)
    assert parse(config("batch_size_per_device=128", "optimizer.lr_rule=none")).lr == pytest.approx(0.05)
    assert "choose one of linear, sqrt, none" in (parse(config("optimizer.lr_rule=cubic")).invalid or "")


def test_accumulated_gradients_make_one_step_of_all_their_samples(config: Compose, tmp_path: Path) -> None:
    # 96 samples in 12 batches of 8: two steps of five batches and one of the two that are left, in each of two epochs.
    result = run_cell(config("norm=batch_norm", "trainer.accumulate_grad_batches=5"), tmp_path)
    assert result.metrics["steps"] == 6
    assert [point["samples"] for point in result.curve] == [96, 192]
    assert result.metrics["lr"] == pytest.approx(0.05 * 40 / 32)
    assert result.normalization_batch == 8
    with pytest.raises(RefusedError, match=r"104 samples .* trainer\.accumulate_grad_batches=13"):
        run_cell(config("trainer.accumulate_grad_batches=13"), tmp_path / "larger")
    with pytest.raises(UserError, match="whole number, 1 or more"):
        run_cell(config("trainer.accumulate_grad_batches=0.5"), tmp_path / "half")


@pytest.mark.parametrize("limit", [0.5, 2])
def test_a_limit_on_validation_holds_for_all_three_errors(config: Compose, tmp_path: Path, limit: float) -> None:
    # 40 images in 4 batches: of 20 images an error is a multiple of 5 %.
    result = run_cell(
        config(
            "norm=batch_norm",
            "data.eval_batch_size=10",
            "batch_size_per_device=5",
            f"trainer.limit_val_batches={limit}",
        ),
        tmp_path,
    )
    for name in ("val_error_running", "val_error_population", "val_error_batch"):
        assert result.metrics[name] % 5 == pytest.approx(0, abs=1e-3), name


def test_schedules(config: Compose) -> None:
    cosine = schedule(parse(config()).optimizer, 100)
    assert cosine(0) == 1
    assert cosine(50) == pytest.approx(0.5)
    assert cosine(100) == pytest.approx(0)
    stepped = schedule(parse(config("optimizer.schedule=step", "optimizer.milestones=[0.3,0.6]")).optimizer, 100)
    assert [stepped(29), stepped(30), stepped(60)] == pytest.approx([1, 0.1, 0.01])
    warm = schedule(parse(config("optimizer.schedule=constant", "optimizer.warmup=0.1")).optimizer, 100)
    assert [warm(0), warm(4), warm(50)] == pytest.approx([0.1, 0.5, 1])
    assert "cosine, step, constant" in (parse(config("optimizer.schedule=zigzag")).invalid or "")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_with_local_batch_norm_equal_one_with_ghost_batch_norm(config: Compose, tmp_path: Path) -> None:
    two = run_cell(config("norm=batch_norm", "trainer.devices=2", "batch_size_per_device=8"), tmp_path / "two")
    one = run_cell(config("norm=ghost_batch_norm", "norm.group_size=8", "batch_size_per_device=16"), tmp_path / "one")
    assert two.world_size == 2
    assert two.metrics["steps"] == one.metrics["steps"] == 12
    assert two.metrics["lr"] == one.metrics["lr"]
    assert two.values_per_statistic == one.values_per_statistic
    for here, there in zip(two.curve, one.curve, strict=True):
        assert here["train_loss"] == pytest.approx(there["train_loss"], rel=1e-5)


@pytest.mark.ddp
def test_two_processes_with_sync_batch_norm_equal_one_with_batch_norm(config: Compose, tmp_path: Path) -> None:
    two = run_cell(config("norm=sync_batch_norm", "trainer.devices=2", "batch_size_per_device=8"), tmp_path / "two")
    one = run_cell(config("norm=batch_norm", "batch_size_per_device=16"), tmp_path / "one")
    assert two.normalization_batch == one.normalization_batch == 16
    for here, there in zip(two.curve, one.curve, strict=True):
        assert here["train_loss"] == pytest.approx(there["train_loss"], rel=1e-4)
        assert here["val_error_running"] == there["val_error_running"]
        assert here["val_error_batch"] == there["val_error_batch"]


@pytest.mark.gpu
def test_a_cell_on_a_gpu(config: Compose, tmp_path: Path) -> None:
    result = run_cell(config("trainer=gpu", "trainer.enable_progress_bar=false"), tmp_path)
    assert result.device["type"] == "cuda"
    assert result.status == "ok"
