"""Stochastic weight averaging that leaves schedule, epochs and batch normalization as the record has them."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging


class StochasticWeightAveraging(WeightAveraging):
    r"""Average the weights and buffers at the ends of the last epochs, with equal weights.

        w_swa = 1/n \sum_{i=1}^{n} w_i

    From the first of these epochs on, validations measure the average, and the trained net is the average.

    Args:
        start: The share of the epochs before the first that is averaged.
        options: Of Lightning's `WeightAveraging`.

    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.
    """

    def __init__(self, start: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= start < 1:
            raise ValueError(f"start={start} must be a share of the epochs, from 0 to less than 1")
        self.start, self.averages, self._due = start, False, False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether the step was the last of an epoch that is averaged."""
        return step_idx is not None and self._due

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *batch: Any) -> None:
        """Update the average after the last step of an epoch, before it is validated."""
        self._due = trainer.is_last_batch and trainer.current_epoch >= int(self.start * (trainer.max_epochs or 0))
        self.averages = self.averages or self._due
        super().on_train_batch_end(trainer, pl_module, *batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Put the average into the module, once there is one."""
        if self.averages:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Take the average out of the module."""
        if self.averages:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the average in the module."""
        if self.averages:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save the net itself while there is no average yet."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self.averages and "current_model_state" in checkpoint:
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a training that is resumed."""
        return {**super().state_dict(), "averages": self.averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state_dict)
        self.averages = state_dict["averages"]
