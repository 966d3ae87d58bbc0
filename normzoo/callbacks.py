"""Check, freeze and recalibrate the norms of any LightningModule while it trains."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from normzoo.probes._callback import inner_model
from normzoo.surgery.batches import Forward, run_batch
from normzoo.surgery.call_order import tensors_in
from normzoo.surgery.doctor import doctor, erased_by_sync
from normzoo.surgery.findings import Findings
from normzoo.surgery.freeze import Where, freeze, unfreeze
from normzoo.surgery.recalibrate import recalibrate


class CheckNorms(Callback):
    """Find what is wrong with the norms before the first step, as `normzoo.surgery.doctor.doctor` does, and say it.

    Batch, devices, accumulation, optimizers and the size of the training set are those of the trainer.

    Args:
        norm_layer: Name of the norm that the model was built with.
        forward: How to call the model on a batch: `lambda model, batch: model(batch["image"])`.

    Attributes:
        findings: What was found; None before the first step.
    """

    def __init__(self, *, norm_layer: str | None = None, forward: Forward | None = None) -> None:
        self.norm_layer, self.forward = norm_layer, forward
        self.findings: Findings | None = None
        self._erased = Findings(())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what `sync_batchnorm=True` would replace, before Lightning does."""
        if stage == "fit":
            self._erased = erased_by_sync(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the norms on the first batch."""
        if self.findings is not None:
            return
        plugin = trainer.precision_plugin

        def forward(model: nn.Module, batch: Any) -> Any:
            return (self.forward or run_batch)(inner_model(model), plugin.convert_input(batch))

        loader: Any = trainer.train_dataloader
        size = getattr(loader, "batch_size", None) or len(next(tensors_in(batch)))
        dataset: Any = getattr(loader, "dataset", None)
        with plugin.forward_context():
            found = doctor(
                pl_module,
                batch,
                batch_size_per_device=size,
                devices=trainer.world_size,
                optimizer=trainer.optimizers,
                norm_layer=self.norm_layer,
                accumulate_grad_batches=trainer.accumulate_grad_batches,
                train_size=len(dataset) if hasattr(dataset, "__len__") else None,
                drop_last=bool(getattr(loader, "drop_last", False)),
                forward=forward,
            )
        layers = dict(pl_module.named_modules())
        replaced = [
            one for one in self._erased if any(isinstance(layers.get(name), nn.SyncBatchNorm) for name in one.layers)
        ]
        self.findings = Findings([*found, *replaced])
        (rank_zero_warn if self.findings.at_least("warning") else rank_zero_info)(f"CheckNorms:\n{self.findings}")


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
