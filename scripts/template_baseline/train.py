"""The baseline of `python -m scripts.bench_sweep`: a cell as most programs on Lightning and Hydra are written.

A Dataset that transforms one image after the other, a DataLoader, metrics by torchmetrics and `self.log`, and Hydra's
basic launcher, which runs one job after the other in one process. Model, images, split, steps and seeds are those of
normzoo.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

import normzoo
from normzoo.data._files import cache_folder
from normzoo.data.base import balanced_order, mixed
from normzoo.data.mnist5k import MNIST5k
from normzoo.models.blocks import Placement

CLASSES = 10

OmegaConf.register_new_resolver("times", lambda *factors: math.prod(map(float, factors)))


class Digits(Dataset[tuple[Tensor, int]]):
    """The 5,000 digits as they lie on the disk, each transformed when it is asked for."""

    def __init__(self, transform: Callable[[np.ndarray], Tensor]) -> None:
        with np.load(cache_folder() / "mnist5k.npz") as file:
            self.images, self.labels = file["x"], file["y"]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


class DigitsDataModule(L.LightningDataModule):
    def __init__(self, batch_size: int, image_size: int, train_size: int, val_size: int, num_workers: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def prepare_data(self) -> None:
        MNIST5k(batch_size=1).prepare_data()

    def setup(self, stage: str | None = None) -> None:
        options = self.hparams
        shrink = transforms.Lambda(partial(F.adaptive_avg_pool2d, output_size=options["image_size"]))
        data = Digits(transforms.Compose([transforms.ToTensor(), shrink]))
        # Instead of random_split: the images that normzoo trains and validates on, so that errors can be compared.
        order, first = balanced_order(torch.from_numpy(data.labels), 0), options["val_size"]
        self.val = Subset(data, mixed(order[:first], 0).tolist())
        self.train = Subset(data, mixed(order[first : first + options["train_size"]], 0).tolist())
        mean, std = self._statistics(data, self.train)
        data.transform = transforms.Compose([transforms.ToTensor(), shrink, transforms.Normalize(mean, std)])

    def _statistics(self, data: Digits, train: Subset[Any]) -> tuple[list[float], list[float]]:
        x = torch.from_numpy(data.images[train.indices]).float().unsqueeze(1) / 255
        x = F.adaptive_avg_pool2d(x, self.hparams["image_size"])
        return [x.mean().item()], [x.std().item()]

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, self.hparams["batch_size"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val, 500)

    def _loader(self, data: Dataset[Any], batch_size: int, **options: Any) -> DataLoader[Any]:
        return DataLoader(data, batch_size=batch_size, num_workers=self.hparams["num_workers"], **options)


class DigitsModule(L.LightningModule):
    def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc = (MulticlassAccuracy(CLASSES, average="micro") for _ in range(2))
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.best_acc = MaxMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, predicted, y = self.step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, y)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, predicted, y = self.step(batch)
        self.val_loss(loss)
        self.val_acc(predicted, y)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        self.best_acc(self.val_acc.compute())
        self.log("val/acc_best", self.best_acc.compute())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


@hydra.main(version_base="1.3", config_path=".", config_name="train")
def main(config: DictConfig) -> float:
    L.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.threads)
    datamodule = DigitsDataModule(config.batch_size_per_device, **config.data)
    order = {str(key): value for key, value in config.placement.items() if key != "name"}
    model = {key: value for key, value in config.model.items() if key != "name"}
    build = hydra.utils.instantiate(model, _partial_=True, _convert_="all")
    placement, factory = Placement(**order), normzoo.factory(**config.norm)
    net = build(norm=factory, placement=placement, in_channels=1, num_classes=CLASSES)
    module = DigitsModule(net, hydra.utils.instantiate(config.optimizer))
    trainer: L.Trainer = hydra.utils.instantiate(config.trainer)
    trainer.fit(module, datamodule=datamodule)
    error = 100 * (1 - float(trainer.callback_metrics["val/acc"]))
    figures = {"val_error": error, "steps": trainer.global_step}
    Path(HydraConfig.get().runtime.output_dir, "metrics.json").write_text(json.dumps(figures) + "\n")
    return error


if __name__ == "__main__":
    main()
