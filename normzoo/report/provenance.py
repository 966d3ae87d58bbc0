"""Describe what was run, from the records: counts, seeds, data, hardware, versions and time."""

from collections import Counter
from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from normzoo.report.facets import ABSENT
from normzoo.report.frame import CONFIG, Table
from normzoo.results import STATUSES, CellResult
from normzoo.text import counted


def counts(table: Table) -> str:
    """Count the cells, by status."""
    found = Counter(table.cells.status)
    parts = ", ".join(f"{found[status]} {status}" for status in STATUSES if found[status])
    return f"{counted(len(table.cells))}: {parts}"


def seeds(cells: pd.DataFrame) -> str:
    """List the seeds, a run of them as a range, without invalid ones that cells were refused for."""
    asked = cells.get(f"{CONFIG}seed", cells.seed)
    found = sorted(set(cells.seed[(asked == cells.seed) | (asked == ABSENT)]))
    if len(found) > 2 and found[-1] - found[0] + 1 == len(found):
        text = f"{found[0]}–{found[-1]}"
    else:
        text = ", ".join(map(str, found[:8])) + (" …" if len(found) > 8 else "")
    return f"{counted(len(found), 'seed')} ({text})" if found else "no seed"


def seeds_by_setting(table: Table) -> str:
    """List the seeds, for each setting by itself where they differ."""
    each = {setting: seeds(cells) for setting, cells in table.cells.groupby("setting")}
    if len(set(each.values())) < 2:
        return seeds(table.cells)
    return listing(f"{setting.label or setting.title}: {each[setting.index]}" for setting in table.settings)


def usual_seeds(cells: pd.DataFrame) -> int:
    """Return the number of seeds of most groups of cells that finished, or of all if none did."""
    finished = cells[cells.status == "ok"] if (cells.status == "ok").any() else cells
    keys = ["setting", "variant", "placement", "devices", "batch", "normalization_batch"]
    counts = finished.groupby(keys, sort=False, dropna=False).seed.nunique()
    return Counter(counts.tolist()).most_common(1)[0][0] if len(counts) else 0


def data(cells: pd.DataFrame) -> str:
    """List the data sets with their sizes, as configured."""
    columns = {
        "train": cells.get(f"{CONFIG}data.train_size"),
        "val": cells.get(f"{CONFIG}data.val_size"),
    }
    sizes: dict[tuple[str, str], list[str]] = {}
    for row in cells[["data", "image_size"]].assign(**columns).drop_duplicates().itertuples():
        counts = [f"{row.train:,} training"] if isinstance(row.train, int) else []
        counts += [f"{row.val:,} validation"] if isinstance(row.val, int) else []
        samples = f" ({' and '.join(counts)} samples)" if counts else ""
        size = f"{row.image_size}×{row.image_size}" if isinstance(row.image_size, int) else "native size"
        found = sizes.setdefault((row.data, samples), [])
        found += [size] if size not in found else []
    return listing(f"{name} at {' and '.join(found)}{samples}" for (name, samples), found in sizes.items())


def models(cells: pd.DataFrame) -> str:
    """List the models by name."""
    return listing(cells.model.unique())


def hardware(cells: pd.DataFrame) -> str:
    """List the devices that cells ran on, most cells first."""
    found: Counter[str] = Counter()
    for record in cells.record:
        device = record.device
        if not device:
            continue
        words = [str(device.get("name") or device.get("type") or "unnamed device")]
        kind = device.get("type")
        if kind and str(kind).lower() not in words[0].lower():
            words.append(str(kind))
        words += [
            f"{device[key]} {key[:-1] if device[key] == 1 else key}" for key in ("cores", "threads") if device.get(key)
        ]
        found[", ".join(words) + (" a process" if device.get("threads") else "")] += 1
    return listing(dict(found.most_common())) if found else "hardware not recorded"


def versions(cells: pd.DataFrame, only: Container[str] | None = None) -> str:
    """List the versions of the software that trained the cells, of all packages or `only` of these."""
    found: dict[str, dict[str, None]] = {}
    for record in cells.record:
        for name, version in record.versions.items():
            if only is None or name in only:
                found.setdefault(str(name), {})[str(version)] = None
    return ", ".join(f"{name} {'/'.join(seen)}" for name, seen in found.items()) or "versions not recorded"


def time(cells: pd.DataFrame) -> str:
    """Return the time that all cells took together, and from the first start to the last end."""
    total, first, last = 0.0, None, None
    for record in cells.record:
        seconds = timed(record, "wall_s") or 0.0
        total += seconds
        start = _instant(record.time.get("started"))
        if start is None or start.year + seconds / 3e7 > 9000:
            continue
        end = start + timedelta(seconds=seconds)
        first, last = min(first or start, start), max(last or end, end)
    text = f"{duration(total)} in cells"
    if first is None or last is None:
        return text
    return f"{text}, {duration((last - first).total_seconds())} from first start to last end"


def timed(record: CellResult, name: str) -> float | None:
    """Return an entry of a cell's `time` record, if it is a number."""
    value = record.time.get(name)
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 3e13 else None  # a million years


def duration(seconds: float) -> str:
    """Write a time in seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def listing(items: Iterable[str], most: int = 4) -> str:
    """Join items into a phrase, the first few by name."""
    found = list(items)
    return "; ".join(found[:most]) + (f"; and {len(found) - most} more" if len(found) > most else "")


def _instant(text: Any) -> datetime | None:
    try:
        # Records with and without a time zone have to compare; local time is what a bare stamp means.
        return datetime.fromisoformat(str(text)).astimezone()
    except (ValueError, OverflowError):  # no time, or one before the first year
        return None
