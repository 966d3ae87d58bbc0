"""Freeze and recalibrate the norms of any LightningModule while it trains."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from normzoo.probes._callback import inner_model
from normzoo.surgery.batches import Forward, run_batch
from normzoo.surgery.freeze import Where, freeze, unfreeze
from normzoo.surgery.recalibrate import recalibrate


class FreezeNorms(Callback):
    """Freeze norms before the optimizers are built, as `normzoo.surgery.freeze.freeze` does.

    Args:
        statistics: Whether to freeze the running statistics.
        affine: Whether to freeze the norms' own parameters.
        where: Which norms, by name in the LightningModule and layer.
        unfreeze_at_epoch: When to unfreeze them; None for never. An optimizer trains them then if it has them, and
            `DistributedDataParallel` only if `affine` is False.
    """

    def __init__(
        self,
        *,
        statistics: bool = True,
        affine: bool = True,
        where: Where | None = None,
        unfreeze_at_epoch: int | None = None,
    ) -> None:
        self.statistics, self.affine, self.where = statistics, affine, where
        self.unfreeze_at_epoch = unfreeze_at_epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze them."""
        if stage == "fit":
            freeze(pl_module, statistics=self.statistics, affine=self.affine, where=self.where)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze them, if it is time; a resumed training may start later."""
        if self.unfreeze_at_epoch is not None and trainer.current_epoch >= self.unfreeze_at_epoch:
            unfreeze(pl_module, where=self.where)


class RecalibrateNorms(Callback):
    """Recompute running statistics over the training set, as `normzoo.surgery.recalibrate.recalibrate` does.

    At the end of training; put it behind a callback that averages weights, such as `WeightAveraging`. The model that is
    called is the attribute `model` of the LightningModule, or else the module itself.

    Args:
        batches: Batches of the training loader, on each process; None for all.
        every_n_epochs: How often to do it during training too; None for never.
        forward: How to call the model on a batch: `lambda model, batch: model(batch["image"])`.
    """

    def __init__(
        self, batches: int | None = None, *, every_n_epochs: int | None = None, forward: Forward | None = None
    ) -> None:
        self.batches, self.every_n_epochs, self.forward = batches, every_n_epochs, forward

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recalibrate, if it is time and this is not the last epoch."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0 and epoch != trainer.max_epochs:
            self._recalibrate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recalibrate."""
        self._recalibrate(trainer, pl_module)

    def _recalibrate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        plugin = trainer.precision_plugin

        def forward(model: nn.Module, batch: Any) -> Any:
            return (self.forward or run_batch)(model, plugin.convert_input(batch))

        loader: Any = trainer.train_dataloader
        with plugin.forward_context():
            recalibrate(inner_model(pl_module), loader, batches=self.batches, forward=forward)
