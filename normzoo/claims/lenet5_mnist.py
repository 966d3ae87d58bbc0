"""LeNet-5 on MNIST, with and without BatchNorm."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, lost, show, where
from normzoo.claims._checks import Finding, Outcome, exceeds, outcome
from normzoo.claims._draw import RUNNING, band, label, legend_above, log_scale, whole_ticks
from normzoo.report.checks import Check
from normzoo.report.series import Stat
from normzoo.report.style import GREY, norm_style

WITHOUT, WITH = "identity", "batch_norm"
# Not measured here: validation accuracy after the first and the tenth epoch on all 60,000 images, as tutorials report.
ARTICLE = {WITHOUT: (93.0, 98.0), WITH: (95.0, 98.5)}
_SCALED = {"zscore": "images to mean 0, variance 1", "minmax": "images to [0, 1]"}


def judge(cells: pd.DataFrame) -> Finding:
    """Judge accuracy and loss after the first epoch, and accuracy after the last, for each scaling of the images."""
    checks: list[Check] = []
    parts: list[str] = []
    for scaling, name in _SCALED.items():
        own = where(cells, data__scaling=scaling)
        if own.empty and parts:
            continue
        plain, bn = (where(own, norm=norm) for norm in (WITHOUT, WITH))
        first, last = ([_at(arm, end, _accuracy) for arm in (bn, plain)] for end in (0, -1))
        loss = [_at(arm, 0, lambda point: point.get("val_loss")) for arm in (plain, bn)]
        epochs = max((len(record.curve) for record in own.record), default=0)
        of = f"{name}: validation"
        higher: dict[str, Any] = {"unit": "points", "better": "high"}
        checks += [
            exceeds(f"{of} accuracy after epoch 1 is higher with BN", *first, **higher),
            exceeds(f"{of} loss after epoch 1 is higher without BN", *loss, digits=3),
            exceeds(f"{of} accuracy after epoch {epochs} is higher with BN", *last, **higher),
        ]
        n = "/".join(map(str, sorted({arm.stat.n if arm.stat else 0 for arm in first})))
        parts.append(
            f"{name}: accuracy after epoch 1 and {epochs} without BN {show(first[1].stat)} and "
            f"{show(last[1].stat)} %, with BN {show(first[0].stat)} and {show(last[0].stat)} % "
            f"({n} {'seed' if n == '1' else 'seeds'}{lost(own, ', {}')})"
        )
    if _of_mnist(cells):
        plain, bn = (" and ".join(f"{level:g}" for level in ARTICLE[norm]) for norm in (WITHOUT, WITH))
        parts.append(f"tutorials report, on 60,000 images after epoch 1 and 10, {plain} % without BN, {bn} % with BN")
    return Finding("; ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw loss and accuracy by epoch, training and validation, a row for each scaling of the images."""
    scaled = {name: own for key, name in _SCALED.items() if len(own := where(cells, data__scaling=key))}
    scaled = scaled or {"images as they are": cells}
    figure.set_size_inches(7.2, 0.6 + 2.5 * len(scaled))
    panels = figure.subplots(len(scaled), 2, squeeze=False)
    for (losses, accuracies), (name, own) in zip(panels, scaled.items(), strict=True):
        _losses_and_accuracies(losses, accuracies, own)
        size = own.record.iloc[0].config["data"].get("train_size")
        images = f"{f'{size:,}' if size else 'all'} training images of {own['data'].iloc[0]}"
        label(losses, f"Loss, {name}", "Epoch", "Cross-entropy (training: epoch mean)")
        label(accuracies, f"Accuracy, {images}", "Epoch", "Accuracy (%)")
        log_scale(losses, "y")
        whole_ticks(losses, accuracies)
    legend_above(figure, panels.flat, columns=3)


def _losses_and_accuracies(losses: Axes, accuracies: Axes, cells: pd.DataFrame) -> None:
    of_mnist = _of_mnist(cells)
    for norm, name in ((WITHOUT, "without BN"), (WITH, "with BN")):
        arm, color = where(cells, norm=norm), norm_style(norm).color
        for loss, error, dash, images in (
            ("train_loss", "train_error", "--", "training"),
            ("val_loss", RUNNING, "-", "validation"),
        ):
            looks: dict[str, Any] = {"color": color, "ls": dash, "label": f"{name}, {images}"}
            band(losses, curves(arm, "epoch", loss), **looks)
            epochs, errors = curves(arm, "epoch", error)
            found = [Stat(100.0 - s.mean, s.std, tuple(100.0 - value for value in s.values)) for s in errors]
            band(accuracies, (epochs, found), **looks)
        for epoch, level in zip((1, 10), ARTICLE[norm] if of_mnist else (), strict=of_mnist):
            accuracies.plot(epoch, level, marker="D", ms=4, mfc="none", mec=color, ls="none", clip_on=False)
    if of_mnist:
        name = "tutorials, 60,000 images of MNIST"
        accuracies.plot([], [], marker="D", ms=4, mfc="none", mec=GREY, ls="none", label=name)


def _of_mnist(cells: pd.DataFrame) -> bool:
    """Return whether the tutorials' figures are for these digits."""
    return bool(cells["data"].isin(("mnist5k", "mnist")).all())


def _at(cells: pd.DataFrame, end: int, value: Callable[[Mapping[str, float | None]], float | None]) -> Outcome:
    return outcome(cells, lambda record: value(record.curve[end]) if record.curve else None)


def _accuracy(point: Mapping[str, float | None]) -> float | None:
    error = point.get(RUNNING)
    return None if error is None else 100.0 - error
