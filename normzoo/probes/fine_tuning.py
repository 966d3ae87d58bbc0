"""Fine-tune a pretrained net on a few shifted images, with its norms treated in one way or another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._supervised import check_counts, error_of, fit, shifted
from normzoo.surgery.convert import convert
from normzoo.surgery.freeze import freeze, norm_parameters
from normzoo.surgery.recalibrate import recalibrate
from normzoo.surgery.running import tracks

SHIFTS = {"none": 0.0, "mild": 0.3, "strong": 1.0}
"""Severities of `shifted`."""

# The statistics of a pretrained net have settled, so that batch renorm needs no warm-up.
SETTLED: dict[str, Any] = {"warmup_steps": 0, "r_max_steps": 1, "d_max_steps": 1}

Treatment = Callable[[nn.Module, list[Tensor]], Any]


def _reset(model: nn.Module) -> None:
    own = {id(parameter) for parameter in norm_parameters(model)}
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            nn.init.constant_(parameter, float(name.endswith("weight")))


BEFORE: dict[str, Treatment] = {
    "as_is": lambda model, new: None,
    "recalibrate": recalibrate,
    "batch_renorm": lambda model, new: convert(model, "batch_renorm", **SETTLED),
    "eval_mode": lambda model, new: freeze(model, affine=False),
    "frozen": lambda model, new: freeze(model),
    "recalibrate_freeze": lambda model, new: freeze(recalibrate(model, new), affine=False),
    "group_norm": lambda model, new: convert(model, "group_norm"),
    "group_norm_reset": lambda model, new: _reset(convert(model, "group_norm").model),
    "group_norm_calibrated": lambda model, new: convert(model, "group_norm", loader=new),
}
"""What is done to a pretrained net before it is fine-tuned, given the new images in batches as large as before."""


def fine_tuning(
    parts: Any,
    *,
    arm: str = "as_is",
    shift: str = "strong",
    new_images: int = 200,
    epochs: int = 2,
    pretrain_epochs: int = 3,
    pretrain_batch: int = 64,
    pretrain_lr: float = 0.1,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Pretrain the cell's model, fine-tune it on new images that are shifted, and test it on others shifted alike.

    Of the training images the last `new_images` are the new ones, and the others those of the pretraining (SGD with
    momentum 0.9, cosine schedule). Fine-tuning takes the optimizer, schedule and batch size of the cell.

    Args:
        parts: Model, data, optimizer, batch size and seed of the cell.
        arm: What is done to the norms, one of `BEFORE`.
        shift: `none`, `mild` or `strong`: brighter, of less contrast, and noisy.
        new_images: Number of images for fine-tuning.
        epochs: Of fine-tuning.
        pretrain_epochs: Of pretraining.
        pretrain_batch: Batch size of pretraining.
        pretrain_lr: Peak learning rate of pretraining.

    Returns:
        Errors in percent on validation images: `error_pretrained`, not shifted; shifted: `error_untreated`, before
        anything is done, `error_treated`, before fine-tuning, `error` at the end, and `error_recalibrated`, if training
        moved running statistics and these are then recomputed from the new images. No arrays.

    Raises:
        UserError: If an option is out of range.
    """
    for name, value, known in (("arm", arm, BEFORE), ("shift", shift, SHIFTS)):
        if value not in known:
            raise UserError(f"unknown study.{name}={value}; choose one of {', '.join(known)}")
    check_counts(new_images=new_images, epochs=epochs, pretrain_epochs=pretrain_epochs, pretrain_batch=pretrain_batch)
    data = parts.data()
    x, y = data.tensors("train")
    if new_images >= len(y):
        raise UserError(f"study.new_images={new_images} leaves none of data.train_size={len(y)} for the pretraining")
    draw = torch.Generator().manual_seed(parts.config.seed)
    x_val, y_val = data.tensors("val")
    new = shifted(x[-new_images:], SHIFTS[shift], draw), y[-new_images:]
    test = shifted(x_val, SHIFTS[shift], draw), y_val

    model = parts.model(data)
    sgd = torch.optim.SGD(model.parameters(), pretrain_lr, momentum=0.9)
    old = x[:-new_images], y[:-new_images]
    fit(model, old, sgd, draw, batch_size=pretrain_batch, epochs=pretrain_epochs, schedule=_cosine)
    metrics = {"error_pretrained": error_of(model, (x_val, y_val)), "error_untreated": error_of(model, test)}
    BEFORE[arm](model, list(new[0].split(pretrain_batch)))
    metrics["error_treated"] = error_of(model, test)
    model.train()
    optimizer = parts.optimizer(p for p in model.parameters() if p.requires_grad)
    size = parts.config.batch_size_per_device
    fit(model, new, optimizer, draw, batch_size=size, epochs=epochs, schedule=parts.scheduler)
    metrics["error"] = error_of(model, test)
    if any(tracks(layer) for layer in model.modules()):
        metrics["error_recalibrated"] = error_of(recalibrate(model, new[0].split(size)), test)
    return metrics, {}


def _cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
