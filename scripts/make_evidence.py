"""Write the figures that `normzoo.advise` ranks by, from the records of two experiments.

normzoo train -m experiment=fine_tuning hydra.sweep.dir=runs/fine_tuning
normzoo train -m experiment=small_batch hydra.sweep.dir=runs/small_batch
python scripts/make_evidence.py runs/fine_tuning runs/small_batch
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import normzoo
from normzoo.claims._cells import frame, split, spread, where
from normzoo.claims._draw import RUNNING
from normzoo.claims.fine_tuning import ACTIONS, SHIFTS, best
from normzoo.report import provenance
from normzoo.report.series import Stat
from normzoo.results import read_results, write_atomic
from normzoo.surgery.advise import EVIDENCE

SIDE = 8  # of the images of small_batch


TARGET = Path(normzoo.__file__).parent / "surgery" / EVIDENCE


def main(fine_tuning: str, small_batch: str, target: str | Path = TARGET) -> None:
    """Read both folders and write the file."""
    cells = {"fine_tuning": _read(fine_tuning), "small_batch": _read(small_batch)}
    cells["small_batch"] = where(cells["small_batch"], placement="pre_act", image_size=SIDE)
    found = {
        "command": "python scripts/make_evidence.py runs/fine_tuning runs/small_batch",
        "measured": {name: _measured(name, own) for name, own in cells.items()},
        "figures": [*_fine_tuned(cells["fine_tuning"]), *_from_start(cells["small_batch"])],
    }
    write_atomic(target, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(found['figures'])} figures in {target}")


def _read(folder: str) -> pd.DataFrame:
    cells = frame(read_results(folder)[0])
    if not len(cells):
        raise SystemExit(f"{folder} has no results")
    return cells[cells.status.isin(("ok", "diverged"))]


def _measured(name: str, cells: pd.DataFrame) -> dict[str, str]:
    return {
        "command": f"normzoo train -m experiment={name}",
        "nets": f"{provenance.models(cells)} on {provenance.data(cells)}",
        "seeds": provenance.seeds(cells),
        "hardware": provenance.hardware(cells),
        "versions": provenance.versions(cells, ("python", "torch", "normzoo")),
    }


def _fine_tuned(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for shift in SHIFTS:
        for batch in sorted(split(cells, "batch")):
            own = where(cells, study__shift=shift, batch=batch)
            for action in ACTIONS:
                lr, found = best(own, action)
                if found.stat:
                    any_batch = action == "recalibrate_only"
                    yield _figure("fine_tuning", shift, action, None if any_batch else batch, found.stat, lr)


def _from_start(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for norm, own in split(cells, "norm").items():
        for batch, at in sorted(split(own, "batch").items()):
            whole = norm != "ghost_batch_norm" and bool((at.status == "ok").all())
            if whole and (stat := spread(at, RUNNING)):
                yield _figure("small_batch", "", norm, batch, stat, float(at["optimizer.base_lr"].iloc[0]))


def _figure(source: str, shift: str, action: str, batch: Any, stat: Stat, lr: Any) -> dict[str, Any]:
    error, std = round(stat.mean, 2), round(stat.std or 0.0, 2)
    size = None if batch is None else int(batch)
    return {
        "source": source, "shift": shift, "action": action, "batch": size, "error": error, "std": std,
        "seeds": stat.n, "base_lr": lr,
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
