"""Read and write checkpoint files as data: tensors, numbers, texts and containers of these, and no code."""

import io
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from normzoo.files import write_atomic

log = logging.getLogger("normzoo")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data.

    Raises:
        ValueError: If it cannot be read, with the reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load takes wrong bytes for weights
        if damaged:
            raise ValueError(f"{damaged} is damaged")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling may raise
        code = re.search(r"GLOBAL (\S+)", str(error))  # torch's message goes on with how to run the code
        named = f"it has {code[1]}, which is not data" if code else f"{type(error).__name__}: {error}"
        raise ValueError(f"cannot be read ({' '.join(named.split())})") from error
    if not isinstance(found, dict):
        raise ValueError(f"cannot be read (it is a {type(found).__name__})")
    return found


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint atomically; one that cannot be written is a warning, and the training continues."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint that can be read back as data."""
        stream = io.BytesIO()
        try:
            torch.save(checkpoint, stream)
            stream.seek(0)
            if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(stream):
                raise TypeError(f"{', '.join(unsafe)} in a state_dict(), which may hold tensors, numbers and text")
            write_atomic(path, stream.getvalue())
        except Exception as error:  # of pickling, which may raise anything, or of a full disk
            log.warning("no checkpoint: %s", error)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as data."""
        return torch.load(path, map_location="cpu", weights_only=True)
