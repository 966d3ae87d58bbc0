"""Subsets, sizes, z-scores, and the errors of data sets in memory."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from normzoo.data.base import balanced_order
from normzoo.data.digits import Digits
from normzoo.data.pixels import crop_flip, resize
from normzoo.data.synthetic import Synthetic
from normzoo.errors import UserError
from tests.data.generated_data import labels_of, same


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


def test_digits_are_what_scikit_learn_has() -> None:
    from sklearn.datasets import load_digits

    data = ready(Digits(batch_size=8, scaling="none"))
    assert data.image_shape == (1, 8, 8)
    assert (data.num_classes, data.num_train, data.num_val) == (10, 1438, 359)
    x = torch.cat([data.tensors("train")[0], data.tensors("val")[0]])
    y = torch.cat([data.tensors("train")[1], data.tensors("val")[1]])
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    rows = {(tuple(row), label) for row, label in zip((x * 16).flatten(1).tolist(), y.tolist(), strict=True)}
    source = load_digits()
    assert rows == {
        (tuple(row), label) for row, label in zip(source.data.tolist(), source.target.tolist(), strict=True)
    }


def test_subsets_are_balanced_disjoint_and_nested() -> None:
    def split(**options: Any) -> tuple[set[Any], set[Any], torch.Tensor, torch.Tensor]:
        data = ready(Digits(batch_size=2, scaling="none", **options))
        (x, y), (x_val, y_val) = data.tensors("train"), data.tensors("val")
        return set(map(tuple, x.flatten(1).tolist())), set(map(tuple, x_val.flatten(1).tolist())), y, y_val

    train, val, y, y_val = split(train_size=205, val_size=100)
    assert y_val.bincount().tolist() == [10] * 10
    assert sorted(y.bincount().tolist()) == [20] * 5 + [21] * 5
    assert not train & val
    more, val_again, *_ = split(train_size=1000, val_size=100)
    assert train < more
    assert val_again == val
    other, other_val, *_ = split(train_size=205, val_size=100, split_seed=1)
    assert other != train
    assert other_val != val
    same_train, *_ = split(train_size=205, val_size=100, seed=9)
    assert same_train == train


@pytest.mark.parametrize("options", [{}, {"train_size": 205, "val_size": 100}])
def test_a_survey_counts_what_setup_makes_ready(options: dict[str, Any]) -> None:
    surveyed, made = Digits(batch_size=2, **options), ready(Digits(batch_size=2, **options))
    surveyed.survey()
    assert (surveyed.num_train, surveyed.num_val) == (made.num_train, made.num_val)
    with pytest.raises(RuntimeError, match="setup"):
        surveyed.tensors("train")


@pytest.mark.parametrize("options", [{"batch_size": 2000}, {"batch_size": 2, "train_size": 1700, "val_size": 100}])
def test_a_survey_refuses_what_setup_does(options: dict[str, Any]) -> None:
    said = []
    for data in (Digits(**options), Digits(**options)):
        with pytest.raises(UserError) as error:
            data.setup() if said else data.survey()
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_pass_in_order_meets_classes_at_random() -> None:
    data = ready(Digits(batch_size=2, train_size=1400))
    for split in ("train", "val"):
        y = data.tensors(split)[1]
        assert 0.03 < (y[1:] == y[:-1]).float().mean() < 0.2


def test_balanced_order_goes_on_when_a_class_runs_out() -> None:
    labels = torch.tensor([0] * 2 + [1] * 9 + [2] * 5)
    order = balanced_order(labels, seed=0)
    assert sorted(order.tolist()) == list(range(16))
    assert labels[order][:6].bincount().tolist() == [2, 2, 2]
    assert labels[order][:12].bincount().tolist() == [2, 5, 5]


def test_zscore_uses_the_training_subset_per_channel() -> None:
    data = ready(Synthetic(batch_size=2, shape=(3, 8, 8), train_size=100, val_size=50, noise=3.0))
    raw = ready(Synthetic(batch_size=2, shape=(3, 8, 8), train_size=100, val_size=50, noise=3.0, scaling="none"))
    x, x_val = data.tensors("train")[0].double(), data.tensors("val")[0]
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    raw_x, raw_val = raw.tensors("train")[0], raw.tensors("val")[0]
    mean, std = raw_x.mean((0, 2, 3), keepdim=True), raw_x.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(x_val, (raw_val - mean) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(data.mean, mean.flatten(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(data.std, std.flatten(), atol=1e-6, rtol=1e-5)


def test_zscore_of_a_constant_channel_is_zero() -> None:
    data = ready(Synthetic(batch_size=2, shape=(1, 4, 4), num_classes=1, noise=0.0, image_size=1))
    assert not data.tensors("train")[0].any()


def test_resize_averages_down() -> None:
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(resize(x, 14), x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)))
    assert resize(x, 8).shape == (2, 1, 8, 8)
    assert resize(x, 28) is not None
    assert same(resize(x, 28), x)


def test_resize_pads_up_with_the_image_in_the_centre() -> None:
    x = torch.rand(2, 1, 28, 28) + 1
    padded = resize(x, 32)
    assert same(padded[:, :, 2:30, 2:30], x)
    assert padded.count_nonzero() == x.numel()
    assert resize(x, 31)[:, :, 1:29, 1:29].equal(x)


def test_resize_can_do_one_side_each_way() -> None:
    assert resize(torch.rand(1, 3, 4, 12), 8).shape == (1, 3, 8, 8)


def test_image_size_is_known_before_setup() -> None:
    data = Digits(batch_size=2, image_size=4)
    assert data.image_shape == (1, 4, 4)
    assert ready(data).tensors("train")[0].shape == (1438, 1, 4, 4)


def test_crop_flip_moves_and_mirrors() -> None:
    x = torch.rand(3, 2, 6, 5) + 1
    centre = 4.5 / 9
    draws = torch.tensor([[centre, centre, 0.9], [centre, centre, 0.1], [0.0, 0.999, 0.9]])
    out = crop_flip(x, draws)
    assert same(out[0], x[0])
    assert same(out[1], x[1].flip(-1))
    assert same(out[2, :, 4:, :1], x[2, :, :2, 4:])
    assert out[2].count_nonzero() == 4


def test_only_shuffled_training_images_are_augmented() -> None:
    data = ready(Synthetic(batch_size=5, train_size=20, val_size=20, augment=True))
    x, _ = data.tensors("train")
    assert same(torch.cat([xb for xb, _ in data.loader("train", 5)]), x)
    assert same(
        torch.cat([xb for xb, _ in data.loader("val", 5, shuffle=True)]).sort().values.flatten().sort().values,
        data.tensors("val")[0].flatten().sort().values,
    )
    seen = torch.cat([xb for xb, _ in data.loader("train", 5, shuffle=True)])
    assert seen.flatten().sort().values.ne(x.flatten().sort().values).any()


def test_synthetic_is_the_same_for_a_split_seed_and_learnable() -> None:
    a, b, c = (ready(Synthetic(batch_size=2, split_seed=s, seed=t)) for s, t in ((3, 0), (3, 1), (4, 0)))
    assert same(a.tensors("train")[0], b.tensors("train")[0])
    assert not same(a.tensors("train")[0], c.tensors("train")[0])
    (x, y), (x_val, y_val) = a.tensors("train"), a.tensors("val")
    assert a.image_shape == (1, 16, 16)
    assert y.bincount().tolist() == [100] * 10
    means = torch.stack([x[y == label].mean(0) for label in range(10)]).flatten(1)
    nearest = torch.cdist(x_val.flatten(1), means).argmin(1)
    assert (nearest == y_val).float().mean() > 0.95


def test_train_dataloader_drops_the_last_short_batch_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    data = ready(Synthetic(batch_size=32, train_size=100, val_size=10))
    with caplog.at_level(logging.INFO, logger="normzoo"):
        assert [len(y) for y in labels_of(data.train_dataloader())] == [32, 32, 32]
        data.train_dataloader()
    assert [record.getMessage() for record in caplog.records] == [
        "synthetic: dropping the last, short batch of each epoch: 4 of 100 training images "
        "(data.drop_last=false keeps it)"
    ]


@pytest.mark.parametrize(("options", "rank"), [({"drop_last": False}, 0), ({"batch_size": 25}, 0), ({}, 1)])
def test_nothing_is_said_without_reason_or_by_other_ranks(
    options: dict[str, Any], rank: int, caplog: pytest.LogCaptureFixture, on_rank: Callable[..., None]
) -> None:
    data = Synthetic(**{"batch_size": 16, "train_size": 100, "val_size": 10, **options})
    on_rank(data, rank, 2)
    ready(data)
    with caplog.at_level(logging.INFO, logger="normzoo"):
        sizes = [len(y) for y in labels_of(data.train_dataloader())]
    assert not caplog.records
    if options.get("drop_last") is False:
        assert sum(sizes) == 50


def test_val_dataloader_serves_each_image_once_over_the_ranks(on_rank: Callable[..., None]) -> None:
    pixels = []
    for rank in range(3):
        data = Synthetic(batch_size=2, train_size=20, val_size=25, eval_batch_size=4)
        on_rank(data, rank, 3)
        ready(data)
        loader = data.val_dataloader()
        batches = [x for x, _ in loader]
        assert len(loader) == len(batches)
        pixels.append(torch.cat(batches)[:, 0, 0, 0])
        everything = data.tensors("val")[0][:, 0, 0, 0]
    assert same(torch.cat(pixels).sort().values, everything.sort().values)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be an integer"),
        ({"batch_size": True}, "batch_size=True"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"seed": -1}, "seed=-1 must be an integer of at least 0"),
        ({"split_seed": "a"}, "split_seed='a'"),
        ({"train_size": 0}, "train_size=0"),
        ({"val_size": -5}, "val_size=-5"),
        ({"image_size": 0}, "image_size=0 must be an integer of at least 1, or null"),
        ({"image_size": "8x8"}, "image_size='8x8'"),
        ({"image_size": 8.0}, "image_size=8.0"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text.replace("(", r"\(")):
        Digits(**{"batch_size": 2, **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": (8, 8)}, r"shape=\[8, 8\] must be three integers \[C, H, W\]"),
        ({"shape": (1, 0, 8)}, "shape=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"train_size": None}, "train_size=None"),
    ],
)
def test_synthetic_refuses_what_it_cannot_make(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        Synthetic(**{"batch_size": 2, **options})


def test_a_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="imagesize"):
        Digits(batch_size=2, imagesize=8)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_larger_than_the_training_set_is_refused(drop_last: bool) -> None:
    data = Synthetic(batch_size=64, train_size=50, val_size=10, drop_last=drop_last)
    text = (
        r"synthetic: the batch \(64\) is larger than the 50 images of train. Lower the batch size or raise data.train"
    )
    with pytest.raises(UserError, match=text):
        data.setup()


def test_the_batch_counts_over_all_processes(on_rank: Callable[..., None]) -> None:
    data = Synthetic(batch_size=32, train_size=50, val_size=10)
    data.setup()
    on_rank(data, 0, 2)
    with pytest.raises(UserError, match=r"the batch \(32 on each of 2 processes = 64\) is larger than the 50 images"):
        data.setup()
    with pytest.raises(UserError, match="larger than the 50"):
        data.train_dataloader()
    with pytest.raises(UserError, match=r"larger than the 10 images of val.*raise data.val_size"):
        data.loader("val", 8, drop_last=True)
    assert len(data.loader("val", 8)) == 1


def test_more_processes_than_validation_images_are_refused(on_rank: Callable[..., None]) -> None:
    data = Synthetic(batch_size=2, train_size=50, val_size=3)
    on_rank(data, 0, 4)
    with pytest.raises(UserError, match="3 validation images are too few for 4 processes"):
        data.setup()


def test_a_last_batch_that_leaves_ranks_without_samples_is_refused(on_rank: Callable[..., None]) -> None:
    data = Synthetic(batch_size=2, train_size=17, val_size=8, drop_last=False)
    on_rank(data, 0, 4)
    data.setup()
    with pytest.raises(UserError, match="would have 1 of 17 training images, fewer than the 4 processes"):
        data.train_dataloader()


@pytest.mark.parametrize(
    "options", [{"train_size": 1500, "val_size": 500}, {"train_size": 1797}, {"val_size": 1797}, {"val_size": 9999}]
)
def test_sizes_beyond_the_pool_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"digits: train_size .* and val_size .* together exceed its 1797 images"):
        Digits(batch_size=2, **options).setup()


def test_use_before_setup_and_a_wrong_split_are_programming_errors() -> None:
    data = Synthetic(batch_size=2)
    with pytest.raises(RuntimeError, match="setup"):
        data.loader("train", 2)
    data.setup()
    with pytest.raises(ValueError, match="'test'; choose 'train' or 'val'"):
        data.loader("test", 2)  # type: ignore[arg-type]


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"scikit-learn.*pip install 'normzoo\[sweep\]'"):
        Digits(batch_size=2).setup()
