"""Image folders: layout, transforms, workers, shards."""

import gc
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pytest
import torch

from normzoo.data.image_folder import ImageFolder
from normzoo.errors import UserError
from tests.data.generated_data import same, write_image_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "images")
    return tmp_path / "images"


def ready(**options: Any) -> ImageFolder:
    data = ImageFolder(**{"batch_size": 4, "image_size": 32, "num_workers": 0, **options})
    data.prepare_data()
    data.setup()
    return data


def all_of(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    assert len(batches) == len(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_shapes_and_sizes(root: Path) -> None:
    data = ImageFolder(root=root, batch_size=4, image_size=32, num_workers=0)
    assert (data.image_shape, data.num_classes) == ((3, 32, 32), 3)
    data.setup()
    assert (data.num_train, data.num_val) == (18, 6)
    x, y = all_of(data.train_dataloader())
    assert (x.shape, x.dtype, y.dtype) == ((16, 3, 32, 32), torch.float32, torch.int64)
    x, y = all_of(data.val_dataloader())
    assert (x.shape, y.bincount().tolist()) == ((6, 3, 32, 32), [2, 2, 2])


def test_validation_images_are_resized_cropped_and_normalized(root: Path) -> None:
    from PIL import Image
    from torchvision.transforms import functional as TF

    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    data = ready(root=root, image_size=28, mean=mean, std=std)
    x, y = all_of(data.loader("val", 6))
    expected = []
    for label in range(3):
        for i in range(2):
            image = TF.resize(Image.open(root / "val" / f"class_{label}" / f"{i}.png"), 32)
            expected.append(TF.normalize(TF.to_tensor(TF.center_crop(image, [28, 28])), mean, std))
    order = data._chosen["val"]
    torch.testing.assert_close(x, torch.stack(expected)[order])
    assert y.tolist() == (order // 2).tolist()


def test_subsets_are_balanced(root: Path) -> None:
    data = ready(root=root, train_size=9, val_size=3)
    assert all_of(data.loader("train", 9))[1].bincount().tolist() == [3, 3, 3]
    assert all_of(data.loader("val", 9))[1].bincount().tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"data.train_size is 19, but .*train holds 18 images"):
        ready(root=root, train_size=19)


def test_crops_depend_on_seed_epoch_and_image_only(root: Path, on_rank: Callable[..., None]) -> None:
    def epoch(number: int, *, rank: int = 0, world: int = 1, **options: Any) -> torch.Tensor:
        data = ImageFolder(**{"root": root, "batch_size": 4 // world, "image_size": 16, "num_workers": 0, **options})
        on_rank(data, rank, world)
        data.setup()
        loader = data.train_dataloader()
        loader.set_epoch(number)
        return all_of(loader)[0]

    before = torch.get_rng_state()
    first = epoch(0)
    assert same(epoch(0), first)
    assert same(epoch(0, num_workers=2), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(epoch(1), first)
    assert not same(epoch(0, seed=1), first)
    for rank in range(2):
        assert same(epoch(0, rank=rank, world=2), first[rank::2])


def test_persistent_workers_learn_of_new_epochs(root: Path) -> None:
    with_workers = ready(root=root, num_workers=1).train_dataloader()
    without = ready(root=root).train_dataloader()
    for _ in range(2):
        assert same(all_of(with_workers)[0], all_of(without)[0])


def test_an_unshuffled_pass_over_training_images_is_not_augmented(root: Path) -> None:
    loader = ready(root=root).loader("train", 4)
    assert same(all_of(loader)[0], all_of(loader)[0])


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda root: shutil.rmtree(root), "has no classes in train: it must contain folders train and val"),
        (lambda root: shutil.rmtree(root / "val"), "folders train and val, each with one folder"),
        (lambda root: [p.unlink() for p in (root / "train" / "class_1").iterdir()], "class_1"),
        (lambda root: shutil.rmtree(root / "val" / "class_2"), r"classes in train and val \(class_2 in only one"),
    ],
)
def test_a_folder_without_the_layout_is_refused(break_it: Any, text: str, root: Path) -> None:
    break_it(root)
    data = ImageFolder(root=root, batch_size=4, num_workers=0)
    with pytest.raises(UserError, match=text):
        _ = (data.num_classes, data.setup())


def test_options_out_of_range_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"image_folder needs data.root=<folder>"):
        ImageFolder(batch_size=4)
    with pytest.raises(UserError, match="image_size=0 must be"):
        ImageFolder(root=root, batch_size=4, image_size=0)
    with pytest.raises(UserError, match="num_workers=-1 must be"):
        ImageFolder(root=root, batch_size=4, num_workers=-1)
    with pytest.raises(UserError, match=r"mean and data\.std"):
        ImageFolder(root=root, batch_size=4, std=[0, 1, 1])
    with pytest.raises(UserError, match=r"the batch \(64\) is larger than the 18 images of train"):
        ready(root=root, batch_size=64)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers: int, root: Path) -> None:
    path = root / "val" / "class_0" / "0.png"
    path.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"class_0/0.png cannot be read .*Replace or remove it") as caught:
        all_of(ready(root=root, num_workers=workers).val_dataloader())
    assert "\n" not in str(caught.value)


def objects_within(root: object) -> int:
    """How many Python objects hang together with this one, but for classes, functions and modules."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        entry = waiting.pop()
        if id(entry) in seen or isinstance(entry, (type, FunctionType, ModuleType, BuiltinFunctionType)):
            continue
        seen[id(entry)] = entry
        waiting += gc.get_referents(entry)
    return len(seen)


def test_the_list_of_files_is_a_few_objects_however_long(tmp_path: Path) -> None:
    """Python's own lists would be copied into every worker, a reference count at a time."""
    counts = []
    for images in (2, 40):
        write_image_folder(tmp_path / str(images), train=images)
        counts.append(objects_within(ready(root=tmp_path / str(images))._files["train"]))
    assert counts[0] == counts[1] < 100


def test_the_list_of_files_is_torchvisions(tmp_path: Path) -> None:
    from torchvision import datasets

    write_image_folder(tmp_path / "größer")
    theirs = datasets.ImageFolder(str(tmp_path / "größer" / "train"))
    ours = pickle.loads(pickle.dumps(ready(root=tmp_path / "größer")._files["train"]))
    assert [ours[i] for i in range(len(theirs))] == theirs.samples
    assert ours.labels.tolist() == theirs.targets
