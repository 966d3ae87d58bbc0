"""The cells of a folder as data frames for one's own analysis: a row per cell, or per epoch of each."""

import os
import warnings

import pandas as pd

from normzoo.errors import UserError
from normzoo.identity import decisive
from normzoo.results import FILE_NAME, CellResult, read_results


def results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a row per cell: `cell`, `status`, `reason`, `folder`, its settings, its metrics and its times.

    A setting has its name on the command line (`norm`, `batch_size_per_device`, `optimizer.base_lr`), and a metric that
    of `result.json` (`val_error_running`). What a cell does not have is missing (NaN).

    Args:
        folder: Of a sweep, or of a single cell.

    Raises:
        UserError: If there is no readable result.
    """
    found = _read(folder)
    metrics = pd.DataFrame([result.metrics for result in found], dtype=float)
    times = pd.DataFrame([result.time for result in found])
    normalized = pd.Series([result.normalization_batch for result in found], name="normalization_batch", dtype="Int64")
    return pd.concat([_settings(found), normalized, metrics, times], axis=1)


def curves(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a row per validation of each cell: `cell`, its settings, `epoch`, `step`, errors and losses.

    Args:
        folder: Of a sweep, or of a single cell.

    Raises:
        UserError: If there is no readable result.
    """
    found = _read(folder)
    rows = [{"row": row, **point} for row, result in enumerate(found) for point in result.curve]
    points = pd.DataFrame(rows, columns=None if rows else ["row", "epoch"])
    points = points.astype(dict.fromkeys(points.columns.difference(["row", "epoch", "step", "samples"]), float))
    return _settings(found).merge(points, left_index=True, right_on="row").drop(columns="row").reset_index(drop=True)


def _read(folder: str | os.PathLike[str]) -> list[CellResult]:
    found, unreadable = read_results(folder)
    for message in unreadable:
        warnings.warn(message, stacklevel=3)
    if not found:
        raise UserError(f"found no results in {folder} (looked for **/{FILE_NAME}); give the folder of a sweep")
    return found


def _settings(found: list[CellResult]) -> pd.DataFrame:
    facts = pd.DataFrame(
        {name: [getattr(result, name) for result in found] for name in ("cell", "status", "reason", "folder")}
    )
    settings = pd.json_normalize([decisive(result.config) for result in found])
    # The name of a choice is the value of its group: norm, not norm.name.
    return pd.concat([facts, settings.rename(columns=lambda key: key.removesuffix(".name"))], axis=1)
