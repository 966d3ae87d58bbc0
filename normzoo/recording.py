"""The arrays that a probe or a study leaves beside a cell's record, in `recording.npz`."""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results import write_atomic

FILE_NAME = "recording.npz"


def write_recording(folder: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write `arrays` (name -> NumPy array, or what becomes one) as `recording.npz` into `folder`, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    import numpy as np

    stream = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(stream, **named)
    return write_atomic(Path(folder) / FILE_NAME, stream.getvalue())


def read_recording(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of the cell in `folder`, by name; none where the cell recorded none.

    Raises:
        UserError: the file is corrupt; the message names it.
    """
    import numpy as np

    file = Path(folder) / FILE_NAME
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is corrupt ({error}); remove its cell's folder and run the cell again.") from error
