"""LeNet-5 on MNIST, with and without BatchNorm."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, curves, entry, lost, outcome, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import band, legend_above, log_scale, whole_ticks
from normzoo.claims._finding import Check, Finding
from normzoo.report.series import Stat
from normzoo.report.style import GREY, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHOUT, WITH = "identity", "batch_norm"
# Not measured here: validation accuracy after the first and the tenth epoch on all 60,000 images, as tutorials report.
ARTICLE = {WITHOUT: (93.0, 98.0), WITH: (95.0, 98.5)}
_SCALED = {"zscore": "images to mean 0, variance 1", "minmax": "images to [0, 1]"}


def judge(records: Sequence[CellResult]) -> Finding:
    """Accuracy and loss after the first epoch, and accuracy after the last, for each scaling of the images."""
    checks: list[Check] = []
    parts: list[str] = []
    for scaling, name in _SCALED.items():
        cells = where(records, data__scaling=scaling)
        if not cells and parts:
            continue
        arms = {norm: where(cells, norm=norm) for norm in (WITHOUT, WITH)}
        first, last = ({norm: _at(arms[norm], end, _accuracy) for norm in arms} for end in (0, -1))
        loss = {norm: _at(arms[norm], 0, lambda point: point.get("val_loss")) for norm in arms}
        epochs = max((len(record.curve) for record in cells), default=0)
        of = f"{name}: validation"
        higher: dict[str, Any] = {"unit": "points", "better": "high"}
        checks += [
            exceeds(f"{of} accuracy after epoch 1 is higher with BN", first[WITH], first[WITHOUT], **higher),
            exceeds(f"{of} loss after epoch 1 is higher without BN", loss[WITHOUT], loss[WITH], digits=3),
            exceeds(f"{of} accuracy after epoch {epochs} is higher with BN", last[WITH], last[WITHOUT], **higher),
        ]
        gone = lost(cells)
        parts.append(
            f"{name}: accuracy after epoch 1 and {epochs} without BN {show(first[WITHOUT].stat)} and "
            f"{show(last[WITHOUT].stat)} %, with BN {show(first[WITH].stat)} and {show(last[WITH].stat)} % "
            f"(n = {_n(first)}{f', {gone}' if gone else ''})"
        )
    if _of_mnist(records):
        plain, bn = (" and ".join(f"{level:g}" for level in ARTICLE[norm]) for norm in (WITHOUT, WITH))
        parts.append(f"tutorials report, on 60,000 images after epoch 1 and 10, {plain} % without BN, {bn} % with BN")
    return Finding("; ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Loss and accuracy by epoch, training and validation, a row for each scaling of the images."""
    scaled = [(name, cells) for key, name in _SCALED.items() if (cells := where(records, data__scaling=key))]
    scaled = scaled or [("images as they are", list(records))]
    figure.set_size_inches(7.2, 0.6 + 2.5 * len(scaled))
    panels = figure.subplots(len(scaled), 2, squeeze=False)
    for (losses, accuracies), (name, cells) in zip(panels, scaled, strict=True):
        _row(losses, accuracies, cells, name)
    legend_above(figure, panels.flat, columns=3)


def _row(losses: "Axes", accuracies: "Axes", cells: Sequence[CellResult], scaled: str) -> None:
    of_mnist = _of_mnist(cells)
    for norm, label in ((WITHOUT, "without BN"), (WITH, "with BN")):
        arm, color = where(cells, norm=norm), norm_style(norm).color
        for split, dash in (("train", "--"), ("val", "-")):
            name = f"{label}, {'training' if split == 'train' else 'validation'}"
            looks: dict[str, Any] = {"color": color, "ls": dash, "label": name}
            band(losses, *curves(arm, "epoch", f"{split}_loss"), **looks)
            error = "train_error" if split == "train" else "val_error_running"
            xs, errors = curves(arm, "epoch", error)
            band(accuracies, xs, [_complement(stat) for stat in errors], **looks)
        for epoch, level in zip((1, 10), ARTICLE[norm] if of_mnist else (), strict=of_mnist):
            accuracies.plot(epoch, level, marker="D", ms=4, mfc="none", mec=color, ls="none", clip_on=False)
    if of_mnist:
        label = "tutorials, 60,000 images of MNIST"
        accuracies.plot([], [], marker="D", ms=4, mfc="none", mec=GREY, ls="none", label=label)
    losses.set(xlabel="Epoch", ylabel="Cross-entropy (training: epoch mean)")
    log_scale(losses, "y")
    whole_ticks(losses)
    losses.set_title(f"Loss, {scaled}", loc="left")
    accuracies.set(xlabel="Epoch", ylabel="Accuracy (%)")
    whole_ticks(accuracies)
    size, data = entry(cells[0], "data.train_size"), entry(cells[0], "data.name")
    accuracies.set_title(f"Accuracy, {f'{size:,}' if size else 'all'} training images of {data}", loc="left")


def _of_mnist(records: Sequence[CellResult]) -> bool:
    """Whether the tutorials' figures are for these digits."""
    return all(entry(record, "data.name") in ("mnist5k", "mnist") for record in records)


def _at(records: Sequence[CellResult], end: int, value: Callable[[dict[str, float | None]], float | None]) -> Outcome:
    return outcome(records, lambda record: value(record.curve[end]) if record.curve else None)


def _accuracy(point: dict[str, float | None]) -> float | None:
    error = point.get("val_error_running")
    return None if error is None else 100.0 - error


def _complement(error: Stat) -> Stat:
    return Stat(100.0 - error.mean, error.std, tuple(100.0 - value for value in error.values))


def _n(arms: dict[str, Outcome]) -> str:
    return "/".join(map(str, sorted({arm.stat.n if arm.stat else 0 for arm in arms.values()})))
