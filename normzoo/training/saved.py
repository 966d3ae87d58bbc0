"""The trained net of a cell: written beside its record, and built again from there."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn

from normzoo.errors import UserError
from normzoo.results import FILE_NAME, CellResult, read_result
from normzoo.training.checkpoint import CHECKPOINT
from normzoo.training.checkpoint_io import read_checkpoint

MODEL = "model.ckpt"
NET = "normzoo_net"  # in a checkpoint: what a net is built from, besides the configuration
# Functions that build a model and do nothing else.
_BUILDERS = tuple(f"normzoo.models.libraries.{name}_model" for name in ("torchvision", "timm"))


class Measurement(Callback):
    """Measure the net at the end of every validation, and write `model.ckpt`: its weights and what they are of.

    Precedes a callback that averages weights, which takes its average out of the module in the same hook.

    Args:
        folder: The cell's.
        save: `last`, the weights that the record measures, `best`, those of the lowest validation error, or `none`.
    """

    def __init__(self, folder: Path, save: str) -> None:
        self.path, self.save = folder / MODEL, save

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Append a point to the curve, and save the best net so far."""
        module.measure()
        if self.save == "best":
            *before, error = (math.inf if e is None else e for e in (p["val_error_running"] for p in module.curve))
            if not before or error < min(before) or not self._exists(trainer):
                trainer.save_checkpoint(self.path, weights_only=True)

    def _exists(self, trainer: Trainer) -> bool:
        """Return whether a net is kept, the same in all processes: a resumed cell may not have kept its best."""
        return bool(trainer.strategy.broadcast(self.path.exists()))

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Save the net as it was measured last."""
        if self.save == "last":
            trainer.save_checkpoint(self.path, weights_only=True)


def load(cell: str | os.PathLike[str] | CellResult, model: nn.Module | None = None) -> nn.Module:
    """Build the model of a cell and load its trained weights.

    Args:
        cell: The cell's folder or record, or a `.ckpt` file of a cell. In a folder it is `model.ckpt`, which
            `sweep.save=last` or `best` has written; else the checkpoint of a cell that has not finished.
        model: The model to load into; None to build it from the cell's configuration.

    Returns:
        The model, on the CPU and in evaluation mode.

    Raises:
        UserError: If there is no net, or the file is damaged, foreign, or of another model.

    A file is read as data (`weights_only=True`). Its configuration names the model's class, which is imported and
    called with options of plain data. A function of your own is not called for a file's sake: pass its `model`.
    """
    path = _find(cell)
    try:
        saved = read_checkpoint(path)
        net, config = saved[NET], saved["hyper_parameters"]
        weights = {key.removeprefix("model."): value for key, value in saved["state_dict"].items()}
        identity, image_shape, num_classes = net["cell"], tuple(net["image_shape"]), net["num_classes"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = error if isinstance(error, ValueError) else "is not of a normzoo cell"
        raise UserError(f"{path} {why}; normzoo.load reads what sweep.save=last or best has written") from error
    record = path.with_name(FILE_NAME)
    if record.exists() and (of := read_result(record).cell) != identity:
        raise UserError(f"{path} is of cell {identity}, and {record} of cell {of}; train the cell again")
    if model is None:
        model = _build(config, image_shape, num_classes, path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        what = " ".join(str(error).split())
        raise UserError(f"the weights in {path} do not fit {type(model).__name__}: {what:.300}") from error
    return model.eval()


def _find(cell: str | os.PathLike[str] | CellResult) -> Path:
    if isinstance(cell, CellResult) and cell.folder is None:
        raise UserError("this record was not read from a folder; give normzoo.load the cell's folder")
    path = Path(cell.folder or "") if isinstance(cell, CellResult) else Path(cell)
    path = path.parent if path.name == FILE_NAME else path
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist; give the folder of a cell, or its {MODEL}")
        return path
    for name in (MODEL, CHECKPOINT):
        if (path / name).exists():
            return path / name
    cells = sorted(found.parent for found in path.glob(f"*/{MODEL}"))
    if len(cells) == 1:
        return cells[0] / MODEL
    if cells:
        raise UserError(f"{path} holds {len(cells)} cells with a trained net; give one of them, such as {cells[0]}")
    raise UserError(f"{path} holds no trained net; train with sweep.save=last or sweep.save=best, which keep it")


def _build(config: Any, image_shape: tuple[int, int, int], num_classes: int, path: Path) -> nn.Module:
    from hydra.utils import get_object

    from normzoo.training.config import parse
    from normzoo.training.instantiate import build_model
    from normzoo.training.trainable import choose_trained

    try:
        parsed = parse(config)
        if str(parsed.model["_target_"]).startswith("normzoo.") and parsed.model.get("weights"):
            parsed = parsed.changed(model={**parsed.model, "weights": None})  # those it began with are not needed
        for target in _targets(parsed.model):
            found = get_object(target)
            if target not in _BUILDERS and not (isinstance(found, type) and issubclass(found, nn.Module)):
                raise UserError(f"{target} is not a class of torch.nn.Module; pass the model: normzoo.load(..., model)")
        model = build_model(parsed, image_shape, num_classes)
        choose_trained(model, parsed.optimizer.trains)
    except Exception as error:  # whatever a constructor raises
        raise UserError(f"cannot build the model of {path}: {' '.join(str(error).split())}") from error
    return model


def _targets(options: Any) -> Iterator[str]:
    """Yield what Hydra would call for these options.

    Raises:
        UserError: If an option is no plain data, or would be resolved.
    """
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from [str(value)] if key == "_target_" else _targets(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from _targets(value)
    elif not isinstance(options, (str, int, float, bool, type(None))) or "${" in str(options):
        raise UserError(f"{options!r:.60} is not plain data")
