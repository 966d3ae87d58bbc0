"""Steps to the accuracy of the net without BatchNorm: the table of the BatchNorm paper, and LeNet-5 per norm."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normzoo.claims._cells import curves, lost, ran, show, spread, where
from normzoo.claims._checks import Finding, Outcome, exceeds, outcome
from normzoo.claims._draw import band, label, styled
from normzoo.report.checks import Check
from normzoo.report.series import Stat, over_seeds
from normzoo.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, norm_style
from normzoo.results import CellResult
from normzoo.text import counted

FACTOR = 2.0  # the paper's BN-Baseline needs 13.3 million steps in place of 31.0
TRAINS = 50.0  # percent of accuracy; guessing among ten classes has 10
PLAIN = "identity"


@dataclass(frozen=True)
class Arm:
    """A row of the paper's table: its name there, which cells it is, and what the paper has for it.

    `steps` and `accuracy` are of Inception on ImageNet, in millions and in percent; not measured here.
    """

    name: str
    norm: str
    lr: float
    sigmoid: bool
    color: str
    steps: str
    accuracy: str

    def cells(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Select the arm's cells."""
        sigmoid = cells["model.activation"] == "sigmoid" if "model.activation" in cells else False
        return cells[(cells.norm == self.norm) & (_lr_factor(cells) == self.lr) & (sigmoid == self.sigmoid)]


ARMS = (
    Arm("Inception", PLAIN, 1, False, BLACK, "31.0 M", "72.2"),
    Arm("Inception, lr × 5", PLAIN, 5, False, PURPLE, "diverged", "–"),
    Arm("BN-Baseline", "batch_norm", 1, False, ORANGE, "13.3 M", "72.7"),
    Arm("BN-x5", "batch_norm", 5, False, VERMILLION, "2.1 M", "73.0"),
    Arm("BN-x30", "batch_norm", 30, False, BLUE, "2.7 M", "74.8"),
    Arm("BN-x5-Sigmoid", "batch_norm", 5, True, GREEN, "–", "69.8"),
)
LENET_NORMS = ("batch_norm", "group_norm", "layer_norm", "instance_norm")


@dataclass(frozen=True)
class Reached:
    """After how many steps the cells of an arm are as accurate as the plain net of the same seed ever gets.

    `diverged` of them did so sooner or later, and `missing` failed, or have no plain net to be compared with.
    """

    steps: Stat | None
    never: int
    diverged: int = 0
    missing: int = 0

    def __str__(self) -> str:
        seeds = (self.steps.n if self.steps else 0) + self.never
        if self.steps is None:
            return f"never ({counted(seeds, 'seed')})" if seeds else "no such cells"
        return show(self.steps, 0) + (f" (never in {self.never} of {seeds} seeds)" if self.never else "")

    @property
    def gone(self) -> str:
        """What became of the others, for the figures of a check."""
        counts = {"diverged": self.diverged, "not to be compared": self.missing}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f" ({found})" if found else ""


def reach(cells: pd.DataFrame, plain: pd.DataFrame) -> Reached:
    """Find the step of the first check at which a cell is as accurate as the plain net of its seed at its best.

    A cell that was ended from outside is no evidence, neither of what its net can reach nor of what it never does.
    """
    best = {record.seed: best_accuracy(record) for record in plain.record if record.status == "ok"}
    none = {record.seed for record in plain.record if record.status == "diverged"}
    finished = ran(cells)
    steps: dict[int, list[float]] = {}
    never, missing = 0, len(cells) - len(finished)
    for record in finished.record:
        level = best.get(record.seed)
        if level is not None:
            at = [step for step, accuracy in _accuracies(record) if accuracy >= level]
            never += not at
            if at:
                steps.setdefault(record.seed, []).append(float(at[0]))
        elif record.seed not in none:
            missing += 1
    return Reached(over_seeds(steps), never, int((cells.status == "diverged").sum()), missing)


def best_accuracy(record: CellResult) -> float | None:
    """Return the highest accuracy of all checks along the training, in percent."""
    return max((accuracy for _, accuracy in _accuracies(record)), default=None)


def _accuracies(record: CellResult) -> list[tuple[Any, float]]:
    points = [(point.get("step"), point.get("val_error_running")) for point in record.curve]
    return [(step, 100.0 - error) for step, error in points if error is not None]


def judge(cells: pd.DataFrame) -> Finding:
    """Judge the order of the paper's table on the Inception, and on LeNet-5 each norm against none."""
    lenet = cells.model == "lenet5"
    inception, lenets = cells[~lenet], cells[lenet]
    arms = {arm.name: arm.cells(inception) for arm in ARMS}
    reached = {name: reach(own, arms["Inception"]) for name, own in arms.items()}
    best = {name: outcome(own, best_accuracy) for name, own in arms.items()}

    def sooner(slow: str, fast: str, factor: float = 1.0) -> Check:
        asked = f"in at most 1/{factor:g} of the steps of" if factor > 1 else "in fewer steps than"
        what = f"{fast} is, with every seed, as accurate as Inception at its best {asked} {slow}"
        compared = {name: own for name, own in arms.items() if name in ("Inception", slow, fast)}
        return _sooner(what, reached[slow], reached[fast], factor).on(pd.concat(compared.values()).record)

    def more_accurate(higher: str, lower: str) -> Check:
        what = f"best accuracy is higher with {higher} than with {lower}"
        return exceeds(what, best[higher], best[lower], better="high")

    fails = "without BatchNorm five times the learning rate does not train: not "
    checks = [
        sooner("Inception", "BN-Baseline", FACTOR),
        sooner("BN-Baseline", "BN-x5"),
        sooner("BN-Baseline", "BN-x30"),
        more_accurate("BN-Baseline", "Inception"),
        more_accurate("BN-x30", "BN-Baseline"),
        _trains("BN-x5-Sigmoid trains: ", arms["BN-x5-Sigmoid"], True).on(inception.record),
        _trains(fails, arms["Inception, lr × 5"], False).on(inception.record),
    ]
    rows = [
        f"{name}: {reached[name]}{' steps' if reached[name].steps else ''}, {_best(own)}"
        for name, own in arms.items()
        if len(own)
    ]
    seeds = counted(inception.seed.nunique(), "seed")
    parts = [f"steps to Inception's best accuracy, best accuracy: {'; '.join(rows)} ({seeds})"]
    if len(lenets):
        none = where(lenets, norm=PLAIN)
        per_norm = {norm: reach(where(lenets, norm=norm), none) for norm in (PLAIN, *LENET_NORMS)}
        at_best = f"as accurate as {norm_style(PLAIN).name} at its best, in fewer steps"
        for norm in LENET_NORMS:
            what = f"LeNet-5: {norm_style(norm).name} is, with every seed, {at_best}"
            both = lenets.record[lenets.norm.isin((PLAIN, norm))]
            checks.append(_sooner(what, per_norm[PLAIN], per_norm[norm]).on(both))
        found = "; ".join(f"{norm_style(norm).name} {steps}" for norm, steps in per_norm.items())
        seeds = counted(lenets.seed.nunique(), "seed")
        parts.append(f"LeNet-5, steps to the best accuracy of no norm: {found} ({seeds})")
    return Finding(". ".join(parts), checks)


def draw(cells: pd.DataFrame, figure: Figure) -> None:
    """Draw accuracy by step of the Inceptions and of the LeNets, and the paper's table with both sets of figures."""
    lenet = cells.model == "lenet5"
    inception = cells[~lenet]
    panels = {name: own for name, own in (("Inception modules", inception), ("LeNet-5", cells[lenet])) if len(own)}
    if not panels:
        return
    figure.set_size_inches(7.2, 4.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(2.1, 1))
    above = grid[0].subgridspec(1, len(panels)).subplots(squeeze=False)[0]
    for axes, (name, own) in zip(above, panels.items(), strict=True):
        if name == "LeNet-5":
            plain = "no norm"
            for norm in (PLAIN, *LENET_NORMS):
                _curve(axes, where(own, norm=norm), **styled(norm_style(norm), marked=False, lw=1.1))
        else:
            plain = "Inception"
            for arm in ARMS:
                dash = "--" if arm.norm == PLAIN and arm.lr > 1 else ":" if arm.sigmoid else "-"
                _curve(axes, arm.cells(own), label=arm.name, color=arm.color, ls=dash, lw=1.1)
        level = spread(own[(own.norm == PLAIN) & (_lr_factor(own) == 1)], best_accuracy)
        if level:
            axes.axhline(level.mean, color=BLACK, lw=0.6, ls=(0, (1, 3)), zorder=0, label=f"{plain} at its best")
        axes.set_xlim(0, None)
        label(axes, name, "Optimizer step", "Validation accuracy (%)")
        if axes.lines:
            axes.legend(loc="lower right", fontsize=6)
    _table(figure.add_subplot(grid[1]), inception)


def _sooner(what: str, slow: Reached, fast: Reached, factor: float = 1.0) -> Check:
    if factor == 1:
        what += ", by more than 1 × the pooled seed std"
    found = f"{fast}{fast.gone} against {slow}{slow.gone}"
    if fast.diverged or fast.never:
        return Check(what, False, found)
    if fast.steps is None or slow.missing or fast.missing or (slow.steps is None and not slow.never):
        return Check(what, None, found)
    if slow.steps is None:
        return Check(what, True, found)
    found += f": {slow.steps.mean / fast.steps.mean:.1f} ×"
    if factor > 1:
        return Check(what, slow.steps.mean >= factor * fast.steps.mean, found)
    compared = exceeds("", Outcome(slow.steps), Outcome(fast.steps))
    return Check(what, compared.holds, found, compared.narrow)


def _trains(what: str, cells: pd.DataFrame, wanted: bool) -> Check:
    what = f"{what}every seed comes above {TRAINS:g} % accuracy"
    if cells.empty or len(ran(cells)) < len(cells):
        return Check(what, None, lost(cells) or "no such cells")
    found = [best_accuracy(record) for record in cells.record if record.status == "ok"]
    trains = len(found) == len(cells) and all(best is not None and best > TRAINS for best in found)
    return Check(what, trains == wanted, _best(cells))


def _lr_factor(cells: pd.DataFrame) -> pd.Series:
    """Return by what the recipe multiplies the learning rate; records have it beside what decides their result."""
    recipes = [(record.config.get("recipe") or {}).get("applied") or {} for record in cells.record]
    return pd.Series([float(applied.get("lr", 1)) for applied in recipes], cells.index, dtype=float)


def _best(cells: pd.DataFrame) -> str:
    best = spread(cells, best_accuracy)
    return (f"{show(best)} %" if best else "no accuracy") + lost(cells, " ({})")


def _curve(axes: Axes, cells: pd.DataFrame, **looks: Any) -> None:
    steps, errors = curves(cells, "step", "val_error_running")
    band(axes, (steps, [Stat(100.0 - s.mean, s.std, s.values) for s in errors]), **looks)


def _table(axes: Axes, inception: pd.DataFrame) -> None:
    axes.axis("off")
    plain = ARMS[0].cells(inception)
    rows = []
    for arm in ARMS:
        if len(own := arm.cells(inception)):
            first = own.record.iloc[0]
            lr = first.metrics.get("lr") or first.config.get("optimizer", {}).get("base_lr", 0.0)
            best = show(spread(own, best_accuracy)) + lost(own, " ({})")
            rows.append([arm.name, str(reach(own, plain)), best, f"{lr:g}", arm.steps, arm.accuracy])
    if not rows:
        return
    head = ["model", "steps to Inception's best", "max. accuracy (%)", "lr", "paper: steps", "paper: accuracy (%)"]
    table = axes.table(rows, colLabels=head, loc="center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(6.6)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.5)
    table.auto_set_column_width(list(range(len(head))))
