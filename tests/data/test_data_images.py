"""Image files: no pixel is clipped, no image counted twice, and what is wrong with a file is told by its name."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normzoo.data._images import EXTENSIONS, read_image
from normzoo.data.image_folder import ImageFolder
from normzoo.errors import UserError
from tests.data.generated_data import write_image_folder

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # every 8-bit value, in 16 bits


def saved(path: Path, pixels: np.ndarray, **options: Any) -> str:
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def tiff(path: Path, data: bytes, *, order: str = "<", bits: int = 16, white_is_zero: bool = False) -> str:
    """An uncompressed grey TIFF of 16 × 16 pixels, of the kinds that Pillow reads and does not write."""
    entries = [(256, 16), (257, 16), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8), (277, 1),
               (278, 16), (279, len(data))]  # fmt: skip
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        directory += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(head + data + directory + bytes(4))
    return str(path)


def packed(pixels: np.ndarray) -> bytes:
    """12 bits a pixel."""
    left, right = pixels.ravel()[::2].astype(int), pixels.ravel()[1::2].astype(int)
    return np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: saved(path / "a.png", RAMP),
        lambda path: saved(path / "a.tif", RAMP),
        lambda path: saved(path / "a.tif", RAMP, compression="tiff_lzw"),
        lambda path: saved(path / "a.pgm", RAMP),
        lambda path: tiff(path / "a.tif", RAMP.astype(">u2").tobytes(), order=">"),
        lambda path: tiff(path / "a.tif", (65535 - RAMP).tobytes(), white_is_zero=True),
        lambda path: tiff(path / "a.tif", packed((RAMP / 65535 * 4095).round()), bits=12),
        lambda path: saved(path / "a.tif", (RAMP / 65535).astype(np.float32)),
        lambda path: saved(path / "a.png", (RAMP // 257).astype(np.uint8)),
    ],
    ids=["png", "tiff", "lzw", "pgm", "big-endian", "white is 0", "12 bits", "float tiff", "8 bits"],
)
def test_grey_of_many_bits_is_scaled_not_clipped(write: Callable[[Path], str], tmp_path: Path) -> None:
    image = read_image(write(tmp_path))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.repeat((RAMP // 257)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_colours_of_8_bits_are_as_pillow_converts_them(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / f"a.{'jpg' if mode in ('CMYK', 'YCbCr') else 'png'}"
    image.save(path)
    assert np.array_equal(np.asarray(read_image(str(path))), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize(
    "pixels",
    [RAMP.astype(np.int32), -RAMP.astype(np.int32), RAMP.astype(np.float32), np.float32([[0, np.nan]]),
     np.float32([[-1, 1]]), np.float32([[0, np.inf]])],
    ids=["int32", "negative", "large floats", "nan", "below 0", "inf"],
)  # fmt: skip
def test_numbers_without_a_range_are_refused_by_the_files_name(pixels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the image .*a\.tif cannot be read .*the value of white is unknown"):
        read_image(saved(tmp_path / "a.tif", pixels))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*, size: tuple[int, int] = (4, 4), data: bytes | None = None, more: bytes = b"") -> bytes:
    rows = zlib.compress(bytes((size[0] * 3 + 1) * size[1])) if data is None else data
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
        + more
        + (png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""))
    )


def valid(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


SPOILT = {
    "empty": b"",
    "text": b"not an image",
    "bomb": png(size=(65_000, 65_000), data=b""),
    "broken stream": png(data=b"\x78\x9cnothing"),
    "broken checksum": png()[:-20] + b"\0" * 20,
    "chunk of wrong length": png(more=png_chunk(b"pHYs", b"\0")),
    "text bomb": png(more=png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
    **{f"cut {kind}": valid(kind)[: len(valid(kind)) // 2] for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")},
    **{f"noise after the head of {kind}": valid(kind)[:30] + bytes(range(256)) for kind in ("PNG", "TIFF")},
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SPOILT[name])
    with pytest.raises(UserError, match=r"the image .*a\.png cannot be read \(.*\)\. Replace or remove it\.$"):
        read_image(str(path))


ERRORS = [SyntaxError("x"), Image.DecompressionBombError("x"), Image.DecompressionBombWarning("x"), struct.error("x"),
               zlib.error("x"), IndexError(), EOFError("x\ny"), TypeError("x"), OverflowError("x"), KeyError("x"),
          OSError(5, "x"), RecursionError("x"), AssertionError(), NotImplementedError("x")]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "workers"),
    [*((error, 0) for error in ERRORS), (ERRORS[0], 1), (IndexError(), 1)],  # the way out of a worker is one for all
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_whatever_pillow_raises_is_told_with_the_files_name(
    error: Exception, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path, classes=1, train=1, val=1)
    data = ImageFolder(root=tmp_path, batch_size=1, image_size=16, num_workers=workers)
    data.setup()

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(
        UserError, match=rf"class_0/0\.png cannot be read \({type(error).__name__}.*\)\. Replace"
    ) as caught:
        list(data.val_dataloader())
    assert "\n" not in str(caught.value)


def loops(train: Path) -> None:
    for folder in train.iterdir():
        (folder / "loop").symlink_to(folder)
        (folder / "up").symlink_to("..")
        (folder / "top").symlink_to("/")
        (folder / "root").symlink_to(train.parent)
        (folder / "self").symlink_to("self")
        (folder / "deep").mkdir()
        (folder / "deep" / "back").symlink_to("../../class_1")


def linked_twice(train: Path) -> None:
    (train / "class_0").rename(train.parent / "store")
    (train / "class_0").mkdir()
    for name in ("one", "two"):
        (train / "class_0" / name).symlink_to(train.parent / "store")
    (train.parent / "store" / "back").symlink_to(train / "class_0")


def into_another_class(train: Path) -> None:
    (train / "class_1" / "sub").mkdir()
    (train / "class_1" / "0.png").rename(train / "class_1" / "sub" / "0.png")
    (train / "class_0" / "link").symlink_to(train / "class_1" / "sub")


def classes_elsewhere(train: Path) -> None:
    store = train.parent / "store"
    train.rename(store)
    train.mkdir()
    for folder in store.iterdir():
        (train / folder.name).symlink_to(folder)
        (folder / "other").symlink_to(store / "class_2")


@pytest.mark.parametrize("link", [loops, linked_twice, into_another_class, classes_elsewhere])
def test_links_count_no_image_twice(link: Callable[[Path], None], tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    link(tmp_path / "train")
    data = ImageFolder(root=tmp_path, batch_size=4, num_workers=0)
    data.setup()
    files = data._files["train"]
    assert files.labels.bincount().tolist() == [6, 6, 6]
    assert len({os.path.realpath(files[i][0]) for i in range(18)}) == 18


def test_one_folder_as_two_classes_is_refused(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=1)
    for split in ("train", "val"):
        (tmp_path / split / "twin").symlink_to("class_0")
    with pytest.raises(UserError, match=r"the class folders .*twin and .*class_0 are the same\. Remove one of them"):
        ImageFolder(root=tmp_path, batch_size=4).setup()


def test_a_folder_of_classes_as_the_only_class_is_refused(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "inner")
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / "inner" / split).rename(tmp_path / split / "unzipped")
    data = ImageFolder(root=tmp_path, batch_size=4)
    for ask in (data.setup, lambda: data.num_classes):
        with pytest.raises(UserError, match=r"the only class in .*train is unzipped, a folder of folders\. Move"):
            ask()


def test_extensions_are_torchvisions() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert EXTENSIONS == IMG_EXTENSIONS


def test_names_that_are_no_utf8_are_names_like_others(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    name = b"caf\xe9".decode(errors="surrogateescape")
    for split in ("train", "val"):
        (tmp_path / split / "class_1").rename(tmp_path / split / name)
        (tmp_path / split / name / "0.png").rename(tmp_path / split / name / f"{name}.png")
    data = ImageFolder(root=tmp_path, batch_size=4, image_size=16, num_workers=0)
    data.setup()
    assert sum(len(y) for _, y in data.val_dataloader()) == 6
    (tmp_path / "val" / name / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        list(data.val_dataloader())
