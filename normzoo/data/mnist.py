"""MNIST from IDX files: from torchvision, a system package, or any folder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from normzoo.data import _idx
from normzoo.data._files import cache_folder, download_once, listing, usual_places
from normzoo.data.in_memory import Images, InMemory
from normzoo.errors import UserError


class MNIST(InMemory):
    """MNIST: 60,000 training and 10,000 validation images (the official test set) of handwritten digits, 28×28.

    The four IDX files, gzipped or not, are searched in `root`, `root/MNIST/raw` and `root/raw`; without `root` in
    `MNIST/raw` below $NORMZOO_DATA, the cache folder and ./data.

    Args:
        root: Folder with the files.
        download: Whether torchvision may download missing files, into `root` or the cache folder.
        options: Options of `InMemory` and `ImageData`.

    Raises:
        UserError: If the files are missing, damaged, or could not be downloaded.

    Source: Y. LeCun et al., 1998, "Gradient-based learning applied to document recognition".
    """

    name = "mnist"
    num_classes = 10
    native_shape = (1, 28, 28)

    torchvision_class = "MNIST"
    system_folders: tuple[str, ...] = ()
    how_to_get = "Set data.download=true, or data.root to a folder with the four IDX files."

    def __init__(self, *, root: str | Path | None = None, download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.root = None if root is None else Path(root).expanduser()
        self.download = download

    def prepare_data(self) -> None:
        """Download the files if they are missing and `download` is set."""
        if not self.download or self._is_there():
            return

        how_else = "Or download its files by other means and set data.root to their folder."

        def fetch(parent: Path) -> None:
            from torchvision import datasets

            getattr(datasets, self.torchvision_class)(str(parent), download=True)

        download_once((self.root or cache_folder()) / self.torchvision_class, fetch, self._is_there, how_else)

    def read(self) -> tuple[Images, Images]:
        """Return training and validation images with labels."""
        folder = self._folder()
        if folder is None:
            raise UserError(
                f"the data set {self.name} is not on this machine: its IDX files (train-images-idx3-ubyte[.gz] and "
                f"three more) are not in {listing(self._places())}. {self.how_to_get}"
            )
        train, val = (_idx.read_split(folder, split, (28, 28), self.num_classes) for split in ("train", "val"))
        return _images(*train), _images(*val)

    def _folder(self) -> Path | None:
        return next((folder for folder in self._places() if _idx.is_complete(folder)), None)

    def _places(self) -> list[Path]:
        raw = Path(self.torchvision_class) / "raw"
        if self.root is not None:
            return [self.root, self.root / raw, self.root / "raw"]
        # All such data sets use the same file names, so search only folders named after this one.
        return [*(place / raw for place in usual_places()), *map(Path, self.system_folders)]

    def _is_there(self) -> bool:
        return self._folder() is not None


def _images(x: np.ndarray, y: np.ndarray) -> Images:
    # torch needs writable arrays.
    return torch.from_numpy(x.copy()).unsqueeze(1), torch.from_numpy(y.copy())
