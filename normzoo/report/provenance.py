"""What was run, said from the records: counts, seeds, hardware, versions and time."""

from collections import Counter
from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Any

from normzoo.report.rows import Row, Table
from normzoo.results import STATUSES


def counts(table: Table) -> str:
    """How many cells there are, by status."""
    found = Counter(row.status for row in table.rows)
    parts = ", ".join(f"{found[status]} {status}" for status in STATUSES if found[status])
    return f"{number(len(table.rows), 'cell')}: {parts}"


def number(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seeds(rows: Iterable[Row]) -> str:
    """The seeds, a run of them as a range, without what cells were refused for that is none."""
    found = sorted({row.seed for row in rows if row.flat.get("seed", row.seed) == row.seed})
    if len(found) > 2 and found[-1] - found[0] + 1 == len(found):
        text = f"{found[0]}–{found[-1]}"
    else:
        text = ", ".join(map(str, found[:8])) + (" …" if len(found) > 8 else "")
    return f"{number(len(found), 'seed')} ({text})" if found else "no seed"


def seeds_by_setting(table: Table) -> str:
    """The seeds; where settings have others, those of each setting."""
    each = {setting: seeds(table.by_setting[setting]) for setting in table.settings}
    if len(set(each.values())) < 2:
        return seeds(table.rows)
    return listing(f"{setting.label or setting.title}: {text}" for setting, text in each.items())


def usual_seeds(rows: Iterable[Row]) -> int:
    """The number of seeds most groups of cells are summarised over, or would be had any cell come to its end."""
    rows = list(rows)
    groups: dict[tuple[Any, ...], set[int]] = {}
    ended = any(row.status == "ok" for row in rows)
    for row in rows:
        if row.status == "ok" or not ended:
            key = (row.setting, row.variant, row.placement, row.devices, row.batch, row.normalization_batch)
            groups.setdefault(key, set()).add(row.seed)
    return Counter(map(len, groups.values())).most_common(1)[0][0] if groups else 0


def data(rows: Iterable[Row]) -> str:
    """Data sets with their sizes, as configured."""
    sizes: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        train, val = row.flat.get("data.train_size"), row.flat.get("data.val_size")
        counts = [f"{train:,} training"] if isinstance(train, int) else []
        counts += [f"{val:,} validation"] if isinstance(val, int) else []
        samples = f" ({' and '.join(counts)} samples)" if counts else ""
        size = f"{row.image_size}×{row.image_size}" if isinstance(row.image_size, int) else "native size"
        sizes.setdefault((row.data, samples), {})[size] = None
    return listing(f"{name} at {' and '.join(found)}{samples}" for (name, samples), found in sizes.items())


def models(rows: Iterable[Row]) -> str:
    """The models by name."""
    return listing(dict.fromkeys(row.model for row in rows))


def hardware(rows: Iterable[Row]) -> str:
    """The devices the cells ran on, most cells first."""
    found: Counter[str] = Counter()
    for row in rows:
        device = row.result.device
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


def versions(rows: Iterable[Row], only: Container[str] | None = None) -> str:
    """The versions of what trained the cells, all of them or `only` these; several of one name are all listed."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, version in row.result.versions.items():
            if only is None or name in only:
                found.setdefault(str(name), {})[str(version)] = None
    return ", ".join(f"{name} {'/'.join(seen)}" for name, seen in found.items()) or "versions not recorded"


def time(rows: Iterable[Row]) -> str:
    """The time all cells took together, and from the first start to the last end."""
    total, first, last = 0.0, None, None
    for row in rows:
        seconds = row.time("wall_s") or 0.0
        total += seconds
        start = _instant(row.result.time.get("started"))
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
