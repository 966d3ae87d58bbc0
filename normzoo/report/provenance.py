"""What was run, said from the records: counts, seeds, hardware, versions and time."""

from collections import Counter
from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from normzoo.report.frame import Table
from normzoo.results import STATUSES, CellResult


def counts(table: Table) -> str:
    """How many cells there are, by status."""
    found = Counter(table.cells.status)
    parts = ", ".join(f"{found[status]} {status}" for status in STATUSES if found[status])
    return f"{number(len(table.cells), 'cell')}: {parts}"


def number(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seeds(cells: pd.DataFrame) -> str:
    """The seeds, a run of them as a range, without what cells were refused for that is none."""
    found = sorted(
        {seed for seed, config in zip(cells.seed, cells.config, strict=True) if config.get("seed", seed) == seed}
    )
    if len(found) > 2 and found[-1] - found[0] + 1 == len(found):
        text = f"{found[0]}–{found[-1]}"
    else:
        text = ", ".join(map(str, found[:8])) + (" …" if len(found) > 8 else "")
    return f"{number(len(found), 'seed')} ({text})" if found else "no seed"


def seeds_by_setting(table: Table) -> str:
    """The seeds; where settings have others, those of each setting."""
    each = {setting: seeds(table.by_setting[setting]) for setting in table.settings}
    if len(set(each.values())) < 2:
        return seeds(table.cells)
    return listing(f"{setting.label or setting.title}: {text}" for setting, text in each.items())


def usual_seeds(cells: pd.DataFrame) -> int:
    """The number of seeds most groups of cells are summarised over, or would be had any cell come to its end."""
    ended = cells[cells.status == "ok"] if (cells.status == "ok").any() else cells
    keys = ["setting", "variant", "placement", "devices", "batch", "normalization_batch"]
    counts = ended.groupby(keys, sort=False, dropna=False).seed.nunique()
    return Counter(counts.tolist()).most_common(1)[0][0] if len(counts) else 0


def data(cells: pd.DataFrame) -> str:
    """Data sets with their sizes, as configured."""
    sizes: dict[tuple[str, str], dict[str, None]] = {}
    for name, image_size, config in zip(cells["data"], cells.image_size, cells.config, strict=True):
        train, val = config.get("data.train_size"), config.get("data.val_size")
        counts = [f"{train:,} training"] if isinstance(train, int) else []
        counts += [f"{val:,} validation"] if isinstance(val, int) else []
        samples = f" ({' and '.join(counts)} samples)" if counts else ""
        size = f"{image_size}×{image_size}" if isinstance(image_size, int) else "native size"
        sizes.setdefault((name, samples), {})[size] = None
    return listing(f"{name} at {' and '.join(found)}{samples}" for (name, samples), found in sizes.items())


def models(cells: pd.DataFrame) -> str:
    """The models by name."""
    return listing(cells.model.unique())


def hardware(cells: pd.DataFrame) -> str:
    """The devices the cells ran on, most cells first."""
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
    """The versions of what trained the cells, all of them or `only` these; several of one name are all listed."""
    found: dict[str, dict[str, None]] = {}
    for record in cells.record:
        for name, version in record.versions.items():
            if only is None or name in only:
                found.setdefault(str(name), {})[str(version)] = None
    return ", ".join(f"{name} {'/'.join(seen)}" for name, seen in found.items()) or "versions not recorded"


def time(cells: pd.DataFrame) -> str:
    """The time all cells took together, and from the first start to the last end."""
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
    return (
        text
        if first is None or last is None
        else f"{text}, {duration((last - first).total_seconds())} from first start to last end"
    )


def timed(record: CellResult, name: str) -> float | None:
    """An entry of a cell's `time` record, if it is a number."""
    value = record.time.get(name)
    # Nothing has taken a million years.
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 3e13 else None


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def listing(items: Iterable[str], most: int = 4) -> str:
    """Items in a phrase, the first few by name."""
    found = list(items)
    return "; ".join(found[:most]) + (f"; and {len(found) - most} more" if len(found) > most else "")


def _instant(text: Any) -> datetime | None:
    try:
        # Records with and without a time zone have to compare; local time is what a bare stamp means.
        return datetime.fromisoformat(str(text)).astimezone()
    except (ValueError, OverflowError):  # no time, or one before the first year
        return None
