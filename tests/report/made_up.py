"""Made-up records of cells with recordings, for the claims that probes measure."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from normzoo.claims._cells import frame
from normzoo.identity import cell_id
from normzoo.recording import write_recording
from normzoo.results import CellResult, write_result


def made_up(
    root: Path,
    *,
    norm: str,
    seed: int,
    metrics: dict[str, float | None] | None = None,
    arrays: dict[str, Any] | None = None,
    status: str = "ok",
    curve: list[dict[str, float | None]] | None = None,
    **config: Any,
) -> CellResult:
    """A record on disk, with its folder, and a config of these top-level entries."""
    whole = {"seed": seed, "norm": {"name": norm}, "model": {"name": "vgg9"}, "data": {"name": "digits"}, **config}
    result = CellResult(
        cell=cell_id(whole), status=status, config=whole, seed=seed, metrics=metrics or {}, curve=curve or []
    )
    result.folder = root / result.cell
    write_result(result.folder, result)
    if arrays:
        write_recording(result.folder, arrays)
    return result


def on_records(claim: Any) -> SimpleNamespace:
    """The claim's two functions, for records in place of the frame made of them."""
    return SimpleNamespace(
        judge=lambda records: claim.judge(frame(records)),
        draw=lambda records, figure: claim.draw(frame(records), figure),
    )
