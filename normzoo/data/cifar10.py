"""CIFAR-10 through torchvision."""

from pathlib import Path

import torch

from normzoo.data._files import listing, usual_places
from normzoo.data.in_memory import Downloadable, Images
from normzoo.errors import UserError

FOLDER = "cifar-10-batches-py"


class CIFAR10(Downloadable):
    """CIFAR-10: 50,000 training and 10,000 validation images (the official test set) of ten classes, 3×32×32.

    The folder cifar-10-batches-py is searched in `root`; without `root` in $NORMZOO_DATA, the cache folder and ./data.
    torchvision reads it and verifies its checksums.

    Args:
        root: Folder that contains cifar-10-batches-py, or that folder itself.
        download: Whether torchvision may download missing files, into `root` or the cache folder.
        options: Options of `InMemory` and `ImageData`.

    Raises:
        UserError: If the files are missing, damaged, or could not be downloaded.

    Source: A. Krizhevsky, 2009, "Learning multiple layers of features from tiny images".
    """

    name = "cifar10"
    num_classes = 10
    native_shape = (3, 32, 32)
    torchvision_class = "CIFAR10"
    download_folder = FOLDER
    how_else = f"Or download it by other means and set data.root to the folder that contains {FOLDER}."

    def read(self) -> tuple[Images, Images]:
        """Return training and validation images with labels."""
        from torchvision import datasets

        parent = self.find()
        if parent is None:
            raise UserError(
                f"the data set cifar10 is not on this machine: there is no {FOLDER} in {listing(self._places())}. "
                f"Set data.download=true, or data.root to the folder that contains {FOLDER}."
            )
        try:
            sets = [datasets.CIFAR10(str(parent), train=train) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"the data set in {parent / FOLDER} is incomplete or damaged ({error}). Delete that folder and set "
                "data.download=true, or replace it with a fresh copy."
            ) from error
        train, val = ((torch.from_numpy(s.data).permute(0, 3, 1, 2), torch.tensor(s.targets)) for s in sets)
        return train, val

    def find(self) -> Path | None:
        """Return the folder that contains cifar-10-batches-py."""
        return next((place for place in self._places() if (place / FOLDER).is_dir()), None)

    def _places(self) -> list[Path]:
        if self.root is None:
            return usual_places()
        return [self.root, *([self.root.parent] if self.root.name == FOLDER else [])]
