"""Generate records like real ones, with invented values, to measure the cost of thousands of them."""

import copy
import inspect
import random
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

from normzoo.identity import cell_id
from normzoo.registry import info, list_norms
from normzoo.results import FILE_NAME, CellResult, record_text

BATCHES = (2, 4, 8, 16, 32, 64)
SIZES = (8, 16)
ERRORS = ("val_error_running", "val_error_population", "val_error_batch", "train_error")


def write_records(folder: Path, config: dict[str, Any], number: int) -> None:
    """Write the folders of `number` cells: every norm at every batch size and image size, seed by seed.

    Args:
        folder: Folder of the sweep, which is created.
        config: Configuration of a real cell; the generated ones differ in norm, batch size, image size and seed.
        number: Number of cells.
    """
    for cell, _ in zip(generated(config), range(number), strict=False):
        place = folder / cell.cell
        (place / ".hydra").mkdir(parents=True)
        (place / "cell.log").touch()
        (place / FILE_NAME).write_text(record_text(cell))


def generated(config: dict[str, Any]) -> Iterator[CellResult]:
    """Yield cells without end, the same ones each time."""
    norms = [name for name in list_norms(kind="layer") if inspect.Parameter.empty not in info(name).arguments.values()]
    draw = random.Random(0)
    for seed in count():
        for size, norm, batch in product(SIZES, norms, BATCHES):
            own = copy.deepcopy(config)
            arguments = {key: value for key, value in info(norm).arguments.items() if _is_plain(value)}
            own.update(seed=seed, batch_size_per_device=batch, norm={"name": norm, **arguments})
            own["data"]["image_size"] = size
            yield _cell(own, draw)


def _cell(config: dict[str, Any], draw: random.Random) -> CellResult:
    norm, batch, size = config["norm"]["name"], config["batch_size_per_device"], config["data"]["image_size"]
    samples = config["data"]["train_size"]
    shared = batch if info(norm).batch_dependent else 1
    curve: list[dict[str, float | None]] = []
    for epoch in (1, 2):
        errors = {name: round(draw.gauss(9.0, 0.5), 4) for name in ERRORS}
        steps = epoch * (samples // batch)
        losses = {"train_loss": draw.random(), "val_loss": draw.random()}
        curve.append({"epoch": epoch, "step": steps, "samples": steps * batch, **errors, **losses})
    metrics = {key: value for key, value in curve[-1].items() if key not in ("epoch", "step", "samples")}
    return CellResult(
        cell=cell_id(config),
        status="ok",
        config=config,
        seed=config["seed"],
        metrics={**metrics, "steps": curve[-1]["step"], "lr": 0.05 * batch / 32},
        curve=curve,
        values_per_statistic={f"stages.{i}.norm": shared * max(1, size >> i) ** 2 for i in range(4)},
        normalization_batch=shared,
        time={"started": "2026-01-01T10:00:00+00:00", "wall_s": 1 + 8 / batch, "ms_per_step": 2.5},
        device={"name": "no machine (generated)", "type": "cpu", "cores": 2, "threads": 1},
        versions={
            "python": "0",
            "normzoo": "0",
            "torch": "0",
            "lightning": "0",
            "torchmetrics": "0",
            "hydra-core": "0",
        },
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
