"""Scales, distortions, batches of few classes, shifted validation images, and what a pickle carries."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from normzoo.data.loader import TensorLoader, generator
from normzoo.data.order import by_class
from normzoo.data.pixels import distort, shifted
from normzoo.data.synthetic import Synthetic
from normzoo.errors import UserError
from tests.data.generated_data import labels_of, same


def ready(**options: Any) -> Any:
    data = Synthetic(**{"batch_size": 8, "train_size": 200, "val_size": 60, **options})
    data.setup()
    return data


def test_minmax_uses_the_training_subset_per_channel() -> None:
    data, raw = (ready(shape=(3, 4, 4), scaling=scaling) for scaling in ("minmax", "none"))
    x, x_val = (data.tensors(split)[0] for split in ("train", "val"))
    assert same(x.amin((0, 2, 3)), torch.zeros(3))
    assert same(x.amax((0, 2, 3)), torch.ones(3))
    raw_x, raw_val = (raw.tensors(split)[0] for split in ("train", "val"))
    low, high = raw_x.amin((0, 2, 3), keepdim=True), raw_x.amax((0, 2, 3), keepdim=True)
    torch.testing.assert_close(x_val, (raw_val - low) / (high - low))
    assert data.mean is None


def test_a_constant_channel_is_zero_in_minmax() -> None:
    assert not ready(scaling="minmax", noise=0.0, num_classes=1, image_size=1).tensors("train")[0].any()


def test_shifted_validation_images() -> None:
    plain, dark = ready(scaling="none"), ready(scaling="none", val_shift={"brightness": -0.25, "contrast": 0.5})
    assert same(dark.tensors("train")[0], plain.tensors("train")[0])
    torch.testing.assert_close(dark.tensors("val")[0], plain.tensors("val")[0] * 0.5 - 0.25)
    noisy, again = (ready(scaling="none", val_shift={"noise": 0.3}).tensors("val")[0] for _ in range(2))
    assert same(noisy, again)
    noise = noisy - plain.tensors("val")[0]
    assert (noise.mean().item(), noise.std().item()) == (pytest.approx(0, abs=0.02), pytest.approx(0.3, rel=0.05))
    same_shift = {"brightness": 0, "contrast": 1, "noise": 0}
    assert same(ready(val_shift=same_shift).tensors("val")[0], ready().tensors("val")[0])
    assert not same(shifted(torch.zeros(2, 1, 3, 3), {**same_shift, "noise": 1}, 5), torch.zeros(2, 1, 3, 3))


def test_the_shift_comes_before_the_scale() -> None:
    """Statistics are those of the training images, and the shifted ones are off by that much."""
    plain, bright = ready(), ready(val_shift={"brightness": 2.0})
    torch.testing.assert_close(bright.tensors("val")[0], plain.tensors("val")[0] + 2.0 / plain.std)


def test_batches_of_few_classes() -> None:
    labels = torch.arange(200) % 10
    for classes, batch in ((1, 8), (2, 8), (3, 16), (10, 40)):
        order = by_class(labels, classes, batch, generator(0))
        assert sorted(order.tolist()) == list(range(200))
        groups = [len(group.unique()) for group in labels[order].split(batch)]
        # Each group leaves less than a batch to the end.
        mixed = -(-10 // classes)
        assert max(groups[: len(groups) - mixed]) <= classes
        assert max(groups[: len(groups) - mixed]) == classes


def test_what_groups_leave_over_comes_last_group_by_group() -> None:
    labels = torch.tensor([0] * 5 + [1] * 6)
    order = labels[by_class(labels, 1, 4, generator(1))].tolist()
    assert order[:4] in ([0] * 4, [1] * 4)
    assert sorted(order[:8]) == [0] * 4 + [1] * 4
    assert sorted(order[8:]) == [0, 1, 1]
    assert order[8:] in ([0, 1, 1], [1, 1, 0])
    # A batch larger than any class leaves everything over.
    assert sorted(by_class(labels, 1, 9, generator(1)).tolist()) == list(range(11))


def test_training_batches_by_class_and_others_in_order() -> None:
    data = ready(order="by_class", classes_per_batch=2, batch_size=10)
    assert all(len(set(batch)) <= 2 for batch in labels_of(data.train_dataloader()))
    mixed = [len(set(batch)) for batch in labels_of(data.loader("train", 10))]
    assert max(mixed) > 2  # such as recomputed statistics are averaged over
    assert max(len(set(batch)) for batch in labels_of(data.loader("val", 10, shuffle=True))) > 2
    alone = ready(order="by_class", batch_size=10)
    assert all(len(set(batch)) == 1 for batch in labels_of(alone.train_dataloader()))


def test_by_class_depends_on_seed_and_epoch_and_not_on_ranks(on_rank: Callable[..., None]) -> None:
    def epoch(number: int, *, rank: int = 0, world: int = 1, **options: Any) -> list[int]:
        data = Synthetic(
            **{"batch_size": 10 // world, "train_size": 200, "val_size": 60, "order": "by_class", **options}
        )
        on_rank(data, rank, world)
        data.setup()
        loader = data.train_dataloader()
        loader.set_epoch(number)
        return torch.cat([x.flatten(1).sum(1) for x, _ in loader]).tolist()

    first = epoch(0)
    assert epoch(0) == first
    assert epoch(1) != first
    assert epoch(0, seed=1) != first
    assert sorted(epoch(1)) == sorted(first)
    for rank in range(2):
        assert epoch(0, rank=rank, world=2) == first[rank::2]


def test_a_fixed_order_is_the_first_epochs_in_every_epoch() -> None:
    fixed, anew = ready(order="fixed").train_dataloader(), ready().train_dataloader()
    orders = [torch.cat([x.flatten(1).sum(1) for x, _ in loader]).tolist() for loader in (fixed, fixed, anew, anew)]
    assert orders[0] == orders[1] == orders[2] != orders[3]
    # What is done to the images is new each time.
    loader = ready(order="fixed", distortion=0.5).train_dataloader()
    one, two = (torch.cat([x for x, _ in loader]) for _ in range(2))
    assert not same(one, two)


def test_distort_leaves_alone_at_the_middle_draw() -> None:
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(distort(x, torch.full((2, 4), 0.5), 1.0, 1.0), x)
    torch.testing.assert_close(distort(x, torch.rand(2, 4), 0.0, 1.0), x)


def test_distort_moves_brightens_and_contrasts() -> None:
    x = torch.arange(8.0).view(1, 1, 1, 8).expand(4, 1, 8, 8)
    draws = torch.full((4, 4), 0.5)
    draws[0, 1], draws[1, 1], draws[2, 2], draws[3, 3] = 0.0, 0.99, 1.0, 0.0
    left, right, contrast, dark = distort(x, draws, 1.0, 2.0)[:, 0, 0].tolist()
    assert left == [0, 0, 1, 2, 3, 4, 5, 6]
    assert right == [1, 2, 3, 4, 5, 6, 7, 7]
    assert contrast == [1.5 * value for value in range(8)]
    assert dark == [value - 1.0 for value in range(8)]


def test_only_shuffled_training_images_are_distorted_anew_each_epoch() -> None:
    data, plain = ready(distortion=0.5, batch_size=200), ready(batch_size=200)
    assert same(next(iter(data.loader("train", 200)))[0], plain.tensors("train")[0])
    assert same(next(iter(data.val_dataloader()))[0], plain.tensors("val")[0])
    loader = data.train_dataloader()
    first, second = (next(iter(loader)) for _ in range(2))
    undistorted = plain.train_dataloader()
    expected = next(iter(undistorted))
    assert same(first[1], expected[1])
    off = (first[0] - expected[0]).abs().mean()
    assert 0.1 < off < 2
    assert not same(first[0].sort(0).values, second[0].sort(0).values)
    weaker = next(iter(ready(distortion=0.1, batch_size=200).train_dataloader()))[0]
    assert (weaker - expected[0]).abs().mean() < off / 2


def test_augmented_images_are_distorted_too() -> None:
    data = ready(augment=True, distortion=0.5)
    loader = data.train_dataloader()
    assert loader.draws == 7
    assert sum(len(y) for _, y in loader) == 200


def test_the_draws_of_an_augmentation_alone_are_as_they_were() -> None:
    seen: list[torch.Tensor] = []

    def spy(x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        seen.append(draws)
        return x

    list(TensorLoader(torch.zeros(6, 1), torch.zeros(6), 2, shuffle=True, seed=4, augment=spy))
    assert same(torch.cat(seen), torch.rand(6, 3, generator=generator(4, 0, 1)))


def test_a_pickle_carries_no_images() -> None:
    data = ready(train_size=2000)
    sent = pickle.dumps(data)
    assert len(sent) < 10_000
    other = pickle.loads(sent)
    with pytest.raises(RuntimeError, match="setup"):
        other.tensors("train")
    other.setup()
    assert same(other.tensors("train")[0], data.tensors("train")[0])
    assert data.num_train == 2000


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scaling": "z"}, "scaling='z' is unknown; choose one of zscore, minmax, none"),
        ({"scaling": True}, "scaling=True"),
        ({"order": "sorted"}, "order='sorted' is unknown; choose one of shuffled, fixed, by_class"),
        ({"classes_per_batch": 2}, "classes_per_batch=2 needs data.order=by_class"),
        ({"order": "by_class", "classes_per_batch": 0}, "classes_per_batch=0"),
        ({"distortion": 1.5}, "distortion=1.5 must be a number from 0 to 1"),
        ({"distortion": "some"}, "distortion='some'"),
        ({"val_shift": {"blur": 1}}, r"val_shift has unknown keys \['blur'\]; choose from brightness, contrast, noise"),
        ({"val_shift": {"noise": -1}}, "val_shift.noise=-1 must be a number of at least 0"),
        ({"val_shift": {"brightness": "much"}}, "val_shift.brightness='much' must be a number"),
        ({"val_shift": {"contrast": float("nan")}}, "val_shift.contrast=nan"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        Synthetic(batch_size=2, **options)
