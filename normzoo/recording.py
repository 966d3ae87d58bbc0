"""The arrays that a probe or a study leaves beside a cell's record, in `recording.npz`."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normzoo.errors import UserError
from normzoo.results import write_atomic
from normzoo.text import bounded

FILE_NAME = "recording.npz"


def write_recording(folder: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write `arrays` (name -> NumPy array, or what becomes one) atomically as `recording.npz` into `folder`.

    Raises:
        UserError: If the folder cannot be written.
    """
    import numpy as np

    stream = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(stream, **named)
    return write_atomic(Path(folder) / FILE_NAME, stream.getvalue())


def read_recording(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays of the cell in `folder`, by name; none if the cell recorded none.

    Raises:
        UserError: If the file is corrupt; the message names it.
    """
    import numpy as np

    file = Path(folder) / FILE_NAME
    if not file.exists():
        return {}
    try:
        if not file.is_file():  # nor would a pipe ever end
            raise ValueError("it is not a regular file")
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything at bytes they do not expect
        raise UserError(
            f"{file} is corrupt ({bounded(str(error), 300)}); remove its cell's folder and run the cell again."
        ) from error
