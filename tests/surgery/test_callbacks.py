"""Norms checked, frozen and recalibrated while Lightning trains."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import WeightAveraging  # noqa: E402

from normzoo.callbacks import CheckNorms, FreezeNorms, RecalibrateNorms  # noqa: E402

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(pl.LightningModule):
    def __init__(self, add=None):
        super().__init__()
        self.model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
        self.model(X + 1)
        self.model.add = nn.Identity() if add is None else nn.Sequential(nn.Unflatten(1, (2, 1, 1)), add, nn.Flatten())
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(self.model[0].training)
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, weight_decay=0.1)


def fit(*callbacks, epochs=2, add=None):
    module = Module(add)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, torch.arange(32) % 2), 8, shuffle=True))
    return module


def test_frozen_norms_stay_until_their_epoch():
    module = fit(FreezeNorms())
    assert not any(module.seen)
    assert torch.equal(module.model[0].weight, torch.ones(3))
    assert module.model[0].num_batches_tracked == 1
    module = fit(FreezeNorms(unfreeze_at_epoch=1))
    assert module.seen == [False] * 4 + [True] * 4
    assert not torch.equal(module.model[0].weight, torch.ones(3))


def test_statistics_are_those_of_the_training_set_at_the_end():
    norm = fit(RecalibrateNorms()).model[0]
    torch.testing.assert_close(norm.running_mean, X.mean(0))
    torch.testing.assert_close(norm.running_var, X.var(0))
    norm = fit(WeightAveraging(), RecalibrateNorms(every_n_epochs=1)).model[0]
    torch.testing.assert_close(norm.running_var, X.var(0))


def test_norms_are_checked_before_the_first_step():
    check = CheckNorms(norm_layer="group_norm")
    with pytest.warns(UserWarning, match="CheckNorms"):
        module = fit(check)
    assert {one.check: one.layers for one in check.findings} == {"swallowed": ("model.0",), "decayed": ("model.0",)}
    assert module.model[0].num_batches_tracked == 1 + 8


def test_norms_that_the_flag_for_synchronized_ones_erased_are_found():
    layers = pytest.importorskip("timm.layers")

    class Flag(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            if self.on:
                pl_module.model = nn.SyncBatchNorm.convert_sync_batchnorm(pl_module.model)

    for on in (True, False):
        check, flag = CheckNorms(), Flag()
        flag.on = on
        fit(check, flag, add=layers.BatchNormAct2d(2))
        assert ("erased" in {one.check for one in check.findings}) is on
