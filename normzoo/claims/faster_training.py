"""Steps to the accuracy of the net without BatchNorm: the table of the BatchNorm paper, and LeNet-5 per norm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normzoo.claims._cells import Outcome, curves, entry, lost, outcome, ran, spread, where
from normzoo.claims._compare import exceeds, show
from normzoo.claims._draw import band
from normzoo.claims._finding import Check, Finding
from normzoo.claims._reach import Reached, best_accuracy, reach
from normzoo.report.series import Stat
from normzoo.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, norm_style
from normzoo.results import CellResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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

    def cells(self, records: Iterable[CellResult]) -> list[CellResult]:
        return [record for record in records if self._is(record)]

    def _is(self, record: CellResult) -> bool:
        recipe = entry(record, "recipe.applied", {})
        sigmoid = entry(record, "model.activation") == "sigmoid"
        return (entry(record, "norm.name"), float(recipe.get("lr", 1)), sigmoid) == (self.norm, self.lr, self.sigmoid)


ARMS = (
    Arm("Inception", PLAIN, 1, False, BLACK, "31.0 M", "72.2"),
    Arm("Inception, lr × 5", PLAIN, 5, False, PURPLE, "diverged", "–"),
    Arm("BN-Baseline", "batch_norm", 1, False, ORANGE, "13.3 M", "72.7"),
    Arm("BN-x5", "batch_norm", 5, False, VERMILLION, "2.1 M", "73.0"),
    Arm("BN-x30", "batch_norm", 30, False, BLUE, "2.7 M", "74.8"),
    Arm("BN-x5-Sigmoid", "batch_norm", 5, True, GREEN, "–", "69.8"),
)
LENET_NORMS = ("batch_norm", "group_norm", "layer_norm", "instance_norm")


def judge(records: Sequence[CellResult]) -> Finding:
    """The order of the paper's table on the Inception; on LeNet-5, each norm against none."""
    inception, lenet = _inception(records), where(records, model="lenet5")
    arms = {arm.name: arm.cells(inception) for arm in ARMS}
    plain = arms["Inception"]
    reached = {name: reach(cells, plain) for name, cells in arms.items()}
    best = {name: outcome(cells, best_accuracy) for name, cells in arms.items()}
    checks = [
        _sooner("Inception", "BN-Baseline", reached, FACTOR).on([*plain, *arms["BN-Baseline"]]),
        _sooner("BN-Baseline", "BN-x5", reached).on([*plain, *arms["BN-Baseline"], *arms["BN-x5"]]),
        _sooner("BN-Baseline", "BN-x30", reached).on([*plain, *arms["BN-Baseline"], *arms["BN-x30"]]),
        _more_accurate("BN-Baseline", "Inception", best),
        _more_accurate("BN-x30", "BN-Baseline", best),
        _trains("BN-x5-Sigmoid trains: ", arms["BN-x5-Sigmoid"], True).on(inception),
        _trains(
            "without BatchNorm five times the learning rate does not train: not ", arms["Inception, lr × 5"], False
        ).on(inception),
    ]
    rows = [
        f"{name}: {reached[name]}{' steps' if reached[name].steps else ''}, {_best(best[name].stat, cells)}"
        for name, cells in arms.items()
        if cells
    ]
    parts = [f"steps to Inception's best accuracy, best accuracy: {'; '.join(rows)} (n = {_seeds(inception)})"]
    if lenet:
        none = where(lenet, norm=PLAIN)
        per_norm = {norm: reach(where(lenet, norm=norm), none) for norm in (PLAIN, *LENET_NORMS)}
        checks += [
            _sooner(PLAIN, norm, per_norm, within="LeNet-5: ").on([*none, *where(lenet, norm=norm)])
            for norm in LENET_NORMS
        ]
        found = "; ".join(f"{norm_style(norm).name} {steps}" for norm, steps in per_norm.items())
        parts.append(f"LeNet-5, steps to the best accuracy of no norm: {found} (n = {_seeds(lenet)})")
    return Finding(". ".join(parts), checks)


def draw(records: Sequence[CellResult], figure: "Figure") -> None:
    """Accuracy by step of the Inceptions and of the LeNets, and the paper's table with both sets of figures."""
    inception, lenet = _inception(records), where(records, model="lenet5")
    panels = [(cells, name) for cells, name in ((inception, "Inception modules"), (lenet, "LeNet-5")) if cells]
    if not panels:
        return
    figure.set_size_inches(7.2, 4.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(2.1, 1))
    above = grid[0].subgridspec(1, len(panels)).subplots(squeeze=False)[0]
    for axes, (cells, name) in zip(above, panels, strict=True):
        if cells is inception:
            for arm in ARMS:
                dash = "--" if arm.norm == PLAIN and arm.lr > 1 else ":" if arm.sigmoid else "-"
                _curve(axes, arm.cells(cells), label=arm.name, color=arm.color, ls=dash)
        else:
            for norm in (PLAIN, *LENET_NORMS):
                style = norm_style(norm)
                _curve(axes, where(cells, norm=norm), label=style.name, color=style.color, ls=style.dash)
        level = spread(where(_unscaled(cells), norm=PLAIN), best_accuracy)
        if level:
            plain = "Inception" if cells is inception else "no norm"
            axes.axhline(level.mean, color=BLACK, lw=0.6, ls=(0, (1, 3)), zorder=0, label=f"{plain} at its best")
        axes.set(xlabel="Optimizer step", ylabel="Validation accuracy (%)", xlim=(0, None))
        axes.set_title(name, loc="left")
        if axes.lines:
            axes.legend(loc="lower right", fontsize=6)
    _table(figure.add_subplot(grid[1]), inception)


def _sooner(slow: str, fast: str, reached: Mapping[str, Reached], factor: float = 1.0, *, within: str = "") -> Check:
    if within:
        fast_name, slow_name = norm_style(fast).name, norm_style(slow).name
        text = f"{within}{fast_name} is, with every seed, as accurate as {slow_name} at its best, in fewer steps"
    else:
        asked = f"in at most 1/{factor:g} of the steps of" if factor > 1 else "in fewer steps than"
        text = f"{fast} is, with every seed, as accurate as Inception at its best {asked} {slow}"
    if factor == 1:
        text += ", by more than 1 × the pooled seed std"
    a, b = reached[slow], reached[fast]
    found = f"{b}{b.gone} against {a}{a.gone}"
    if b.diverged or b.never:
        return Check(text, False, found)
    if b.steps is None or a.missing or b.missing or (a.steps is None and not a.never):
        return Check(text, None, found)
    if a.steps is None:
        return Check(text, True, found)
    found += f": {a.steps.mean / b.steps.mean:.1f} ×"
    if factor > 1:
        return Check(text, a.steps.mean >= factor * b.steps.mean, found)
    compared = exceeds("", Outcome(a.steps), Outcome(b.steps))
    return Check(text, compared.holds, found, compared.narrow)


def _more_accurate(higher: str, lower: str, best: Mapping[str, Outcome]) -> Check:
    what = f"best accuracy is higher with {higher} than with {lower}"
    return exceeds(what, best[higher], best[lower], better="high")


def _trains(what: str, cells: Sequence[CellResult], wanted: bool) -> Check:
    text = f"{what}every seed comes above {TRAINS:g} % accuracy"
    if not cells or len(ran(cells)) < len(cells):
        return Check(text, None, lost(cells) or "no such cells")
    found = [best_accuracy(record) for record in cells if record.status == "ok"]
    trains = len(found) == len(cells) and all(best is not None and best > TRAINS for best in found)
    return Check(text, trains == wanted, _best(spread(cells, best_accuracy), cells))


def _inception(records: Iterable[CellResult]) -> list[CellResult]:
    return [record for record in records if entry(record, "model.name") != "lenet5"]


def _unscaled(records: Iterable[CellResult]) -> list[CellResult]:
    return [record for record in records if float(entry(record, "recipe.applied", {}).get("lr", 1)) == 1]


def _best(best: Stat | None, cells: Sequence[CellResult]) -> str:
    gone = lost(cells)
    return (f"{show(best)} %" if best else "no accuracy") + (f" ({gone})" if gone else "")


def _seeds(records: Iterable[CellResult]) -> int:
    return len({record.seed for record in records})


def _curve(axes: "Axes", cells: Sequence[CellResult], **looks: Any) -> None:
    xs, errors = curves(cells, "step", "val_error_running")
    band(axes, xs, [Stat(100.0 - s.mean, s.std, s.values) for s in errors], lw=1.1, **looks)


def _table(axes: "Axes", inception: Sequence[CellResult]) -> None:
    axes.axis("off")
    plain = ARMS[0].cells(inception)
    rows = []
    for arm in ARMS:
        if cells := arm.cells(inception):
            lr = cells[0].metrics.get("lr") or entry(cells[0], "optimizer.base_lr", 0.0)
            best = spread(cells, best_accuracy)
            gone = f" ({lost(cells)})" if lost(cells) else ""
            rows.append([arm.name, str(reach(cells, plain)), show(best) + gone, f"{lr:g}", arm.steps, arm.accuracy])
    if not rows:
        return
    head = ["model", "steps to Inception's best", "max. accuracy (%)", "lr", "paper: steps", "paper: accuracy (%)"]
    table = axes.table(rows, colLabels=head, loc="center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(6.6)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.5)
    table.auto_set_column_width(list(range(len(head))))
