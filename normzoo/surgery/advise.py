"""Advise what to do about a model's norms at a batch size, by measured errors."""

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from torch import nn

from normzoo.registry import info
from normzoo.surgery.identify import find_norms
from normzoo.surgery.report import Rows, SurgeryError, aligned

Shift = Literal["none", "mild", "strong"]
Figure = Mapping[str, Any]
"""A measured error: `source, shift (empty: not pretrained), action, batch, error, std, seeds, base_lr`."""

EVIDENCE = "evidence.json"
BN, SYNC = "batch_norm", "sync_batch_norm"
HOW = {
    "keep": "leave the norms as they are",
    "recalibrate": "train, then normzoo.recalibrate(model, loader)",
    "recalibrate_only": "normzoo.recalibrate(model, loader), and no fine-tuning",
    "freeze_statistics": "normzoo.freeze(model, affine=False)",
    "recalibrate_freeze": "normzoo.freeze(normzoo.recalibrate(model, loader), affine=False)",
    "freeze": "normzoo.freeze(model)",
    "batch_renorm": 'normzoo.convert(model, "batch_renorm", warmup_steps=0, r_max_steps=1, d_max_steps=1)',
    SYNC: 'normzoo.convert(model, "sync_batch_norm")',
    "group_norm_calibrated": 'normzoo.convert(model, "group_norm", loader=loader)',
    "group_norm": 'normzoo.convert(model, "group_norm")',
    "group_norm_reset": 'normzoo.convert(model, "group_norm"), weights to 1 and biases to 0',
    "group_norm_from_start": "pretrain anew with group_norm",
}
"""What to do, the least effort first: of those that are measured alike, this decides."""


@dataclass(frozen=True)
class Advice:
    """One thing to do, and the error that was measured with it."""

    action: str
    how: str
    error: float | None
    """In percent, the mean over seeds at the best learning rate; None where it was not measured."""
    std: float | None
    """Over seeds."""
    seeds: int
    batch_size: int | None
    """The batch size that was measured, the nearest to the one asked for; None if it does not matter."""
    as_good: bool
    """Whether the error is within one pooled standard deviation of the lowest."""
    source: str
    """The experiment."""


class Advices(Rows[Advice]):
    """What to do, the best first. It prints as a table; `as_dicts` is for data frames.

    Attributes:
        situation: What was asked, in words.
        measured: How each source was measured: command, data, seeds, hardware and versions.
    """

    def __init__(self, rows: Sequence[Advice], situation: str, measured: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(rows)
        self.situation = situation
        self.measured = measured

    def __str__(self) -> str:
        cells = [
            (
                row.action,
                "not measured" if row.error is None else f"{row.error:.1f} ± {row.std or 0:.1f} %",
                "" if row.batch_size is None else str(row.batch_size),
                "yes" if row.as_good else "",
                row.how,
            )
            for row in self
        ]
        sources = dict.fromkeys(row.source for row in self if row.source)
        notes = [f"{name}: {'; '.join(self.measured[name].values())}" for name in sources]
        return "\n".join([self.situation, *aligned(("action", "error", "at batch", "as good", "how"), cells), *notes])


def advise(
    model: nn.Module | str,
    *,
    batch_size_per_device: int,
    devices: int = 1,
    pretrained: bool = False,
    shifted: Shift = "none",
) -> Advices:
    """Rank what can be done about the norms of a model: keep, recalibrate, freeze, synchronize, convert.

    The ranking is that of measured errors, in `evidence.json` beside this file; it says how they were measured. They
    are of small nets on small images, so take them as a first guess, and measure with your own. What is within one
    pooled standard deviation of the lowest error counts as good as that; of these the least effort comes first.

    Args:
        model: A model, or the name of its norm.
        batch_size_per_device: In training.
        devices: How many train together; with several, synchronizing statistics is an option.
        pretrained: Whether it is to be fine-tuned, rather than trained from the start.
        shifted: How much the data differ from those of the pretraining: `none`, `mild` or `strong`.

    Returns:
        The advice, the best first.

    Raises:
        SurgeryError: If an argument is out of range, or the model has no norm.
        UnknownNormError: If there is no norm of this name.
    """
    for name, value in (("batch_size_per_device", batch_size_per_device), ("devices", devices)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SurgeryError(f"advise: {name}={value!r} must be a positive integer")
    if shifted not in ("none", "mild", "strong"):
        raise SurgeryError(f"advise: unknown shifted={shifted!r}; choose from none, mild, strong")
    norm = info(model).name if isinstance(model, str) else _norm_of(model)
    if pretrained:
        pool = [row for row in evidence()["figures"] if row["shift"] == shifted and norm in (BN, SYNC)]
    else:
        present = BN if norm == SYNC else norm
        pool = [
            {**row, "action": "keep" if row["action"] == present else row["action"]}
            for row in evidence()["figures"]
            if not row["shift"]
        ]
    together = batch_size_per_device * devices
    found = _at(pool, together if norm == SYNC else batch_size_per_device)
    if norm == BN and devices > 1 and (synced := _at(pool, together).get("keep")):
        found[SYNC] = {**synced, "action": SYNC}
    what = "fine-tuned" if pretrained else "trained from the start"
    situation = f"{norm}, {what} at batch {batch_size_per_device} on {devices} device{'s' * (devices > 1)}"
    situation += f", shift: {shifted}" if pretrained else ""
    return Advices(_ranked(found), situation, evidence()["measured"])


@functools.cache
def evidence() -> dict[str, Any]:
    """Return the measured errors, and how they were measured; `scripts/make_evidence.py` writes them."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath(EVIDENCE).read_text(encoding="utf-8"))
    return found


def _norm_of(model: nn.Module) -> str:
    """Return the norm that most layers of the model have; of those that depend on the batch, if there are any."""
    counts = Counter(norm.equation for _, _, norm in find_norms(model) if norm.equation)
    if not counts:
        raise SurgeryError(f"advise: {type(model).__name__} has no norm that can be identified; pass the name of one")
    return max(counts, key=lambda name: (info(name).batch_dependent, counts[name]))


def _at(pool: Sequence[Figure], batch_size: int) -> dict[str, Figure]:
    """Return the figures at the measured batch size that is nearest, by ratio, and those that hold at any."""
    sizes = {row["batch"] for row in pool if row["batch"]}
    nearest = min(sizes, key=lambda size: abs(math.log(size / batch_size)), default=None)
    return {row["action"]: row for row in pool if row["batch"] in (nearest, None)}


def _ranked(found: Mapping[str, Figure]) -> list[Advice]:
    best = min(found.values(), key=lambda row: row["error"], default=None)
    efforts = list(HOW)

    def advice(row: Figure) -> Advice:
        how = HOW.get(row["action"], f'normzoo.convert(model, "{row["action"]}")')
        spread = math.sqrt((row["std"] ** 2 + best["std"] ** 2) / 2)  # type: ignore[index]
        as_good = row["error"] - best["error"] <= spread  # type: ignore[index]
        return Advice(row["action"], how, row["error"], row["std"], row["seeds"], row["batch"], as_good, row["source"])

    def rank(one: Advice) -> tuple[bool, float]:
        effort = efforts.index(one.action) if one.action in efforts else len(efforts)
        return (not one.as_good, effort if one.as_good else one.error or 0.0)

    rows = sorted(map(advice, found.values()), key=rank)
    unmeasured = Advice("keep", HOW["keep"], None, None, 0, None, False, "")
    return rows if "keep" in found else [*rows, unmeasured]
