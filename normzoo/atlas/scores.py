"""What the norms scored in a sweep: those of the default one ship as scores.json."""

import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results import CellResult, read_results


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the validation error of each norm of a sweep by the number of samples that share a statistic.

    A sweep of several settings, such as image sizes or placements, is told by the one with most norms.

    Raises:
        UserError: If no cell of the folder has finished.
    """
    results, _ = read_results(folder)
    finished = [one for one in results if one.status == "ok" and one.metrics.get("val_error_running") is not None]
    if not finished:
        raise UserError(f"no cell in {folder} has a validation error: give the folder of a finished sweep")
    norms = {_setting(result): set[str]() for result in finished}
    for result in finished:
        norms[_setting(result)].add(result.config["norm"]["name"])
    main = max(norms, key=lambda setting: len(norms[setting]))
    cells: dict[tuple[str, int], list[CellResult]] = defaultdict(list)
    for result in results:
        if _setting(result) == main:
            batch = result.config["norm"].get("group_size") or result.config["batch_size_per_device"]
            cells[result.config["norm"]["name"], batch].append(result)
    first = next(result for result in finished if _setting(result) == main)
    return {
        "experiment": first.config.get("claim", {}).get("name", folder.name),
        "setting": main,
        "device": f"{first.device.get('name')}, {first.device.get('cores')} cores",
        "versions": {name: first.versions.get(name) for name in ("normzoo", "torch")},
        "rows": [_row(norm, batch, found) for (norm, batch), found in sorted(cells.items())],
    }


def _setting(result: CellResult) -> str:
    config = result.config
    data, size = config["data"], config["data"].get("image_size")
    model, images = (group.get("name") or group.get("_target_") for group in (config["model"], data))
    where = f"{model} on {images}{f' at {size}×{size}' if size else ''}"
    lr = config.get("optimizer", {}).get("base_lr")
    rate = f", learning rate {lr}" if lr else ""
    return f"{where}, {config['trainer']['max_epochs']} epochs, placement {config['placement'].get('name')}{rate}"


def _row(norm: str, batch: int, cells: list[CellResult]) -> dict[str, Any]:
    errors = [
        error for cell in cells if cell.status == "ok" and (error := cell.metrics.get("val_error_running")) is not None
    ]
    (status, _), *_ = Counter(cell.status for cell in cells).most_common()
    return {
        "norm": norm,
        "batch": batch,
        "status": status,
        "error": round(statistics.fmean(errors), 2) if errors else None,
        "std": round(statistics.stdev(errors), 2) if len(errors) > 1 else None,
        "seeds": len(errors) or len(cells),
        "fewest": min(cells[0].values_per_statistic.values(), default=None),
    }
