"""Rows, one a cell, and the table they make: data, and the questions that every part of the report asks of it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from normzoo.report.facets import Setting
from normzoo.results import CellResult


@dataclass(frozen=True, eq=False)
class Row:
    """One cell, flat."""

    result: CellResult
    flat: Mapping[str, Any] = field(repr=False)
    norm: str
    variant: str
    batch: int | None
    normalization_batch: int | None
    placement: str
    model: str
    data: str
    image_size: Any
    devices: int
    seed: int
    values_min: int | None
    setting: Setting

    @property
    def status(self) -> str:
        return self.result.status

    @property
    def reason(self) -> str:
        """Why the cell is not `ok`, on one line."""
        return " ".join((self.result.reason or "").split())

    def metric(self, name: str) -> float | None:
        """A metric of a cell that came to its end; None where there is none or the cell did not."""
        return self.result.metrics.get(name) if self.status == "ok" else None

    def time(self, name: str) -> float | None:
        """An entry of the cell's `time` record, if it is a number."""
        value = self.result.time.get(name)
        # Nothing has taken a million years.
        return float(value) if isinstance(value, (int, float)) and 0 <= value < 3e13 else None


@dataclass(frozen=True, eq=False)
class Table:
    """All rows of a folder, the settings (the fullest first) and the cells that were found twice."""

    rows: tuple[Row, ...]
    settings: tuple[Setting, ...]
    differing: tuple[str, ...]
    repeated: int
    # Lines once found in these rows, by what was asked for: summary, checks and figure ask for the same ones.
    found: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def by_setting(self) -> dict[Setting, list[Row]]:
        groups: dict[Setting, list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row.setting].append(row)
        return groups

    @cached_property
    def batch_norms(self) -> frozenset[str]:
        """Norms whose statistics were shared by several samples in some cell."""
        return frozenset(row.norm for row in self.rows if (row.normalization_batch or 1) > 1)

    @cached_property
    def partitioned(self) -> frozenset[str]:
        """Norms whose normalization batch was varied while the batch of a step stayed the same."""
        seen: dict[tuple[Any, ...], set[int]] = defaultdict(set)
        for row in self.rows:
            if row.normalization_batch is not None:
                seen[row.setting, row.norm, row.placement, row.devices, row.batch].add(row.normalization_batch)
        return frozenset(key[1] for key, values in seen.items() if len(values) > 1)

    def main_placement(self, setting: Setting) -> str:
        """The placement most cells of the setting have; `pre_act` where several tie."""
        counts = Counter(row.placement for row in self.by_setting[setting])
        return min(counts, key=lambda name: (-counts[name], name != "pre_act", name))
