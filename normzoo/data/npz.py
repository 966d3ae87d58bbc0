"""Images and labels of your own in a NumPy file."""

import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normzoo.data.in_memory import Images, InMemory
from normzoo.errors import UserError

LAYOUT = "x_train, y_train, x_val and y_val (or x_test and y_test), or x and y to split"


class Npz(InMemory):
    """Images and labels of your own in one .npz file, with x_train, y_train, x_val, y_val, or with one pool x, y.

    Images are (N, H, W), or (N, H, W, C) as NumPy and Keras store them, of uint8 or of floats in [0, 1]; labels are
    whole numbers from 0. `numpy.savez_compressed(file, x_train=..., y_train=..., ...)` writes such a file.

    Args:
        file: The file.
        options: Options of `InMemory` and `ImageData`; of one pool, val_size None is a fifth.

    Raises:
        UserError: If the file is missing, damaged, or has other arrays.
    """

    name = "npz"

    def __init__(self, *, file: str | Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        if file is None:
            raise UserError(f"the data set npz needs data.file=<file>, a .npz file with {LAYOUT}.")
        self.file = Path(file).expanduser()

    @property
    def native_shape(self) -> tuple[int, int, int]:  # type: ignore[override]  # read from the file here
        """The shape (C, H, W) of an image in the file."""
        return self._facts[0]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The largest label plus one."""
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[tuple[int, int, int], int]:
        (x, y), val = self.read()
        return (x.shape[1], x.shape[2], x.shape[3]), 1 + int(max(y.max(), y.max() if val is None else val[1].max()))

    def read(self) -> tuple[Images, Images | None]:
        """Return training and validation images with labels, or one pool and None."""
        try:
            with np.load(self.file, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"data.file={self.file} cannot be read ({reason}); it must have {LAYOUT}.") from error
        for suffixes in (("_train", "_val"), ("_train", "_test"), ("",)):
            if all(f"{array}{suffix}" in arrays for suffix in suffixes for array in "xy"):
                splits = [self._images(arrays, suffix) for suffix in suffixes]
                break
        else:
            found = ", ".join(arrays) or "nothing"
            raise UserError(f"data.file={self.file} has {found}; it must have {LAYOUT}.")
        if len({(x.shape[1:], x.dtype) for x, _ in splits}) > 1:
            raise UserError(f"data.file={self.file}: training and validation images differ in shape or dtype.")
        self.max_value = 255.0 if splits[0][0].dtype == torch.uint8 else 1.0
        return splits[0], splits[1] if len(splits) == 2 else None

    def _images(self, arrays: Mapping[str, np.ndarray], suffix: str) -> Images:
        x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
        unit = x.size > 0 and x.dtype.kind == "f" and 0 <= x.min() <= x.max() <= 1
        if x.ndim not in (3, 4) or not x.size or not (unit or x.dtype == np.uint8):
            raise self._wrong(f"x{suffix}", x, "images (N, H, W) or (N, H, W, C) of uint8, or of floats in [0, 1]")
        if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
            raise self._wrong(f"x{suffix}", x, "(N, H, W, C), with the channels last: x.transpose(0, 2, 3, 1)")
        if y.shape not in ((len(x),), (len(x), 1)) or y.dtype.kind not in "iu" or y.min() < 0:
            raise self._wrong(f"y{suffix}", y, f"{len(x)} labels, whole numbers from 0")
        images = torch.from_numpy(x.astype(np.float32) if unit else x)
        images = images.unsqueeze(1) if x.ndim == 3 else images.permute(0, 3, 1, 2)
        return images, torch.from_numpy(y.astype(np.int64)).flatten()

    def _wrong(self, name: str, array: np.ndarray, expected: str) -> UserError:
        values = f" from {array.min():g} to {array.max():g}" if array.size and array.dtype.kind in "iuf" else ""
        return UserError(
            f"data.file={self.file}: {name} is {array.dtype} {tuple(array.shape)}{values}; it must be {expected}."
        )
