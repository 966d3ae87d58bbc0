"""The callbacks of the group `callbacks`: built, checked, and what an early end of the training is recorded as."""

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks

from normzoo.errors import UserError
from normzoo.training.averaging import StochasticWeightAveraging
from normzoo.training.config import CellConfig
from normzoo.training.module import MEASURED
from normzoo.training.target import build_by_target

_NEED_A_LOGGER = (callbacks.LearningRateMonitor, callbacks.DeviceStatsMonitor, callbacks.ThroughputMonitor)
_NO_CALLBACKS = {
    "StochasticWeightAveraging": (
        "replaces the learning-rate schedule and adds an epoch in which BatchNorm alone is updated, so that a record "
        "would not state what was trained; choose callbacks=swa, which averages the same weights"
    ),
    "GradientAccumulationScheduler": "changes the global batch as it trains; set trainer.accumulate_grad_batches",
    "BatchSizeFinder": "changes the batch size; sweep over batch_size_per_device",
    "LearningRateFinder": "changes the learning rate; sweep over optimizer.base_lr",
}


def build_callbacks(config: CellConfig) -> list[lightning.Callback]:
    """Build the callbacks of the configuration.

    Raises:
        UserError: If one cannot be built, or is none.
    """
    built = []
    for name, options in config.callbacks.items():
        try:
            one = build_by_target(f"callbacks.{name}", options)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"callbacks.{name}: {' '.join(str(error).split())}") from error
        if not isinstance(one, lightning.Callback):
            raise UserError(f"callbacks.{name} is a {type(one).__name__}; it must be a lightning.Callback")
        built.append(one)
    return built


def check_callbacks(config: CellConfig) -> None:
    """Check that the callbacks can be built, have what they need, and change nothing behind the record.

    Raises:
        UserError: If not, with the callback.
    """
    for name, one in zip(config.callbacks, build_callbacks(config), strict=True):
        monitored = getattr(one, "monitor", None)
        for kind, why in _NO_CALLBACKS.items():
            if isinstance(one, getattr(callbacks, kind)):
                raise UserError(f"callbacks.{name}: {kind} {why}")
        if isinstance(one, _NEED_A_LOGGER) and not config.logger.get("_target_"):
            raise UserError(f"callbacks.{name} needs a logger: add logger=csv, or another one")
        if isinstance(one, StochasticWeightAveraging) and (config.trainer.max_epochs or -1) < 0:
            raise UserError(f"callbacks.{name} averages the last of so many epochs: give trainer.max_epochs")
        if monitored is not None and monitored not in MEASURED:
            raise UserError(f"callbacks.{name}.monitor={monitored} must be one of {', '.join(MEASURED)}")
        if monitored is not None and config.trainer.arguments.get("limit_val_batches") == 0:
            raise UserError(f"callbacks.{name} monitors validations, which trainer.limit_val_batches=0 turns off")


def stopped_early(trainer: lightning.Trainer, epochs: int) -> str | None:
    """Return what ended the training before its last epoch; None if nothing did.

    Args:
        trainer: Whose training has ended.
        epochs: How many it trained.
    """
    most = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
    if not trainer.should_stop or (most is not None and epochs >= most):
        return None
    reasons = [getattr(one, "stopping_reason_message", None) for one in trainer.callbacks]  # type: ignore[attr-defined]
    why = next((f": {reason}" for reason in reasons if reason), "")
    return f"stopped after epoch {epochs}{f' of {most}' if most else ''}{why}"
