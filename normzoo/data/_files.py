"""Locate data files, and write our own atomically."""

import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from normzoo.errors import UserError
from normzoo.results import write_atomic

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, NotImplementedError)


def cache_folder() -> Path:
    """Return $NORMZOO_CACHE, else $XDG_CACHE_HOME/normzoo, else ~/.cache/normzoo."""
    if own := os.environ.get("NORMZOO_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "normzoo"
    return Path("~/.cache/normzoo").expanduser()


def usual_places() -> list[Path]:
    """Return the folders to search without a `root`: $NORMZOO_DATA, the cache, ./data."""
    own = os.environ.get("NORMZOO_DATA")
    return [*([Path(own).expanduser()] if own else []), cache_folder(), Path("data")]


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically, so that no reader or concurrent writer sees half a file.

    Raises:
        UserError: If the folder is not writable.
    """
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of the arrays
    write_atomic(path, stream.getvalue())


def read_npz(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[np.ndarray]:
    """Read the named uint8 arrays of a cached file, in the order of `shapes`.

    Raises:
        UserError: If the file is damaged (each array has a checksum) or has other contents.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in shapes]
        if [(a.dtype, a.shape) for a in arrays] != [(np.dtype(np.uint8), shape) for shape in shapes.values()]:
            raise ValueError("unexpected contents")
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"the cached data file {path} is corrupt or cannot be read ({reason}). Delete it and run again to rebuild "
            "it."
        ) from error
    return arrays


def download_once(target: Path, fetch: Callable[[Path], None], is_there: Callable[[], bool], how_else: str) -> None:
    """Create the folder `target` by `fetch(parent)`, which must create `parent / target.name`.

    It is downloaded next to its place and then moved, so that two concurrent runs do not write into each other's files;
    the second one keeps the folder of the first.

    Raises:
        UserError: If the download or the write fails, or an incomplete `target` already exists.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            fetch(Path(temporary))
            try:
                os.rename(Path(temporary) / target.name, target)
            except OSError:
                if not target.is_dir():
                    raise
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the download of {target.name} into {target.parent} failed ({reason}). {how_else}") from error
    if not is_there():
        raise UserError(f"the folder {target} is incomplete and blocks the download. Delete it and run again.")


def listing(places: Iterable[Path]) -> str:
    """Join the places for an error message."""
    return ", ".join(str(place) for place in places)
