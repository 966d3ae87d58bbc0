"""MNIST from IDX files: from torchvision, a system package, or any folder."""

from pathlib import Path

import numpy as np
import torch

from normzoo.data import _idx
from normzoo.data._files import listing, usual_places
from normzoo.data.in_memory import Downloadable, Images
from normzoo.errors import UserError


class MNIST(Downloadable):
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

    torchvision_class = download_folder = "MNIST"
    system_folders: tuple[str, ...] = ()
    how_else = "Or download its files by other means and set data.root to their folder."
    how_to_get = "Set data.download=true, or data.root to a folder with the four IDX files."

    def read(self) -> tuple[Images, Images]:
        """Return training and validation images with labels."""
        folder = self.find()
        if folder is None:
            raise UserError(
                f"the data set {self.name} is not on this machine: its IDX files (train-images-idx3-ubyte[.gz] and "
                f"three more) are not in {listing(self._places())}. {self.how_to_get}"
            )
        train, val = (_idx.read_split(folder, split, (28, 28), self.num_classes) for split in ("train", "val"))
        return _images(*train), _images(*val)

    def find(self) -> Path | None:
        """Return the folder that has all four files."""
        return next((folder for folder in self._places() if _idx.is_complete(folder)), None)

    def _places(self) -> list[Path]:
        raw = Path(self.torchvision_class) / "raw"
        if self.root is not None:
            return [self.root, self.root / raw, self.root / "raw"]
        # All such data sets use the same file names, so search only folders named after this one.
        return [*(place / raw for place in usual_places()), *map(Path, self.system_folders)]


def _images(x: np.ndarray, y: np.ndarray) -> Images:
    # torch needs writable arrays.
    return torch.from_numpy(x.copy()).unsqueeze(1), torch.from_numpy(y.copy())
