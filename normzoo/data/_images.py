"""Find the image files below class folders, and read their pixels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normzoo.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


def class_folders(root: Path) -> list[Path]:
    """Return the class folders, sorted by name.

    Raises:
        OSError: If `root` cannot be listed.
        UserError: If its only folder contains the class folders.
    """
    classes = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    within = list(classes[0].iterdir()) if len(classes) == 1 else []
    if any(entry.is_dir() for entry in within) and not any(_is_image(entry.name) for entry in within):
        raise UserError(
            f"the only class in {root} is {classes[0].name}, a folder of folders. Move the class folders from "
            f"{classes[0]} to {root}."
        )
    return classes


def image_files(classes: Sequence[Path]) -> list[tuple[str, int]]:
    """Return the image files below each class folder, with the index of the class, in torchvision's order.

    Symbolic links to folders are followed, but no folder is visited twice, nor one that contains the class folders: a
    loop of links adds no image, and linking to the folder of another class does not add its images.

    Raises:
        OSError: If a folder cannot be listed.
        UserError: If two classes are the same folder, or a class has no image.
    """
    split = classes[0].parent.resolve()
    entered = {_identity(above): str(above) for above in (split, *split.parents)}

    def is_new(folder: str) -> bool:
        return entered.setdefault(_identity(folder), folder) is folder

    found: list[tuple[str, int]] = []
    waiting = [(label, str(folder)) for label, folder in enumerate(classes)]
    links: list[tuple[int, str]] = []
    for _, at in waiting:
        if not is_new(at):
            raise UserError(f"the class folders {at} and {entered[_identity(at)]} are the same. Remove one of them.")
    while waiting:
        label, at = waiting.pop()
        with os.scandir(at) as entries:
            for entry in entries:
                linked = entry.is_symlink()
                if os.path.isdir(entry.path) if linked else entry.is_dir():
                    if linked:
                        links.append((label, entry.path))
                    elif is_new(entry.path):
                        waiting.append((label, entry.path))
                elif _is_image(entry.name):
                    found.append((entry.path, label))
        # Follow links last: a folder belongs to the class it lies in.
        while links and not waiting:
            links.sort(reverse=True)
            waiting = [link for link in [links.pop()] if is_new(link[1])]
    empty = sorted({*range(len(classes))} - {label for _, label in found})
    if empty:
        names = ", ".join(classes[label].name for label in empty[:5])
        more = ", ..." if len(empty) > 5 else ""
        raise UserError(f"no image in {names}{more}. Supported extensions: {', '.join(EXTENSIONS)}.")
    return sorted(found, key=lambda one: (one[1], *os.path.split(one[0])))


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def read_image(path: str) -> Any:
    """Read the first image of a file as a Pillow image in 8-bit RGB; scale 16 bits, and floats in [0, 1], to 8 bits.

    Raises:
        UserError: If the file cannot be read; names it and the reason.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _eight_bits(image).convert("RGB")
    # On damaged files Pillow's decoders raise almost anything, such as SyntaxError or IndexError.
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        named = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise UserError(f"the image {path} cannot be read ({named}). Replace or remove it.") from error


def _eight_bits(image: Any) -> Any:
    """Scale the image to 0 ... 255 if `convert` would clip its values.

    Raises:
        ValueError: If the value of white is unknown.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    pixels, tags = np.asarray(image).astype(np.float64), getattr(image, "tag_v2", {})  # a TIFF's
    if image.mode == "F" and 0 <= pixels.min() <= pixels.max() <= 1:  # false for NaN
        white = 1.0
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 2.0 ** tags.get(258, (16,))[0] - 1  # Pillow does not scale the 12 bits of some TIFF files
    else:
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(
            f"its pixels are {kind} from {pixels.min():g} to {pixels.max():g}, and the value of white is unknown; "
            "save it with 8 or 16 bits per channel, or as numbers from 0 to 1"
        )
    if tags.get(262) == 0:  # white is zero
        pixels = white - pixels
    return Image.fromarray((pixels * (255 / white)).round().clip(0, 255).astype(np.uint8))
