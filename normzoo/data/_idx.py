"""Read the IDX format of MNIST and similar data sets: four files, gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from normzoo.errors import UserError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 8


def locate(folder: Path, name: str) -> Path | None:
    """Return the file `name` in a folder, plain or gzipped."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def is_complete(folder: Path) -> bool:
    """Return whether a folder has all four files."""
    return all(locate(folder, name) for pair in FILES.values() for name in pair)


def read_idx(path: Path) -> np.ndarray:
    """Read the array of one IDX file of unsigned bytes.

    The header is two zero bytes, the type, the rank, and the sizes as big-endian 32-bit numbers.

    Raises:
        UserError: If the file is damaged or of another type.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != UNSIGNED_BYTE:
        raise _damaged(path, "it has no IDX header for bytes")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise _damaged(path, "its header is truncated")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    if len(raw) - start != math.prod(shape):
        raise _damaged(path, f"expected {math.prod(shape)} values, found {len(raw) - start}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_split(folder: Path, split: str, image: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the images (N, H, W) and labels (N) of one split, and check that they match.

    Raises:
        UserError: If a file is damaged, sizes differ from those expected, or images and labels do not match.
    """
    paths = [locate(folder, name) or folder / name for name in FILES[split]]
    x, y = (read_idx(path) for path in paths)
    if x.shape[1:] != image:
        raise _damaged(paths[0], f"expected images of {image[0]}×{image[1]}, found shape {x.shape}")
    if y.shape != x.shape[:1] or y.size == 0 or int(y.max()) >= num_classes:
        raise _damaged(paths[1], f"expected {len(x)} labels below {num_classes}, one per image of {paths[0].name}")
    return x, y


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"the data file {path} is damaged or not the right one ({reason}). Replace it with a fresh copy.")
