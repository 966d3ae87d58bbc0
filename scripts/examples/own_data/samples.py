"""Data of one's own: as tensors, and as a plain LightningDataModule."""

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from normzoo.data.own import TensorData


def stripes(samples: int) -> tuple[Tensor, Tensor]:
    """Draw noisy images with a bright row whose position is the class."""
    labels = torch.arange(samples) % 4
    images = torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(samples))
    images[torch.arange(samples), 0, 2 * labels] += 2
    return images, labels


class Blobs(TensorData):
    """Tensors, and done."""

    def __init__(self, train_size: int = 96) -> None:
        super().__init__(*stripes(train_size), *stripes(40))


class Stripes(LightningDataModule):
    """As it is written for Lightning."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Return the training samples."""
        return DataLoader(TensorDataset(*stripes(96)), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the validation samples."""
        return DataLoader(TensorDataset(*stripes(40)), self.batch_size)
