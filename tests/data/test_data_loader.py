"""The order of samples: by (seed, epoch), for every number of processes, under Lightning and after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from normzoo.data.image_folder import ImageFolder
from normzoo.data.loader import EpochSampler, TensorLoader, generator
from normzoo.data.synthetic import Synthetic
from tests.data.generated_data import labels_of, write_image_folder


def tensors(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1), torch.arange(n)


def test_each_sample_once_and_x_belongs_to_y() -> None:
    loader = TensorLoader(*tensors(23), batch_size=5, shuffle=True)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    assert len(loader) == 5
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(23))
    assert all((x.flatten() == y).all() for x, y in batches)


def test_chunks_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = labels_of(TensorLoader(*tensors(50), batch_size=3, shuffle=True))
    monkeypatch.setattr("normzoo.data.loader.CHUNK_BYTES", 40)
    assert labels_of(TensorLoader(*tensors(50), batch_size=3, shuffle=True)) == whole


def test_writing_into_a_batch_leaves_the_data_alone() -> None:
    x, y = tensors(10)
    for batch, _ in TensorLoader(x, y, batch_size=4):
        batch.zero_()
    assert x.flatten().tolist() == list(range(10))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = TensorLoader(*tensors(40), batch_size=4, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return labels_of(loader)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(1, 1) == orders[-1]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert order(0, 0) == orders[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_passes_count_epochs_and_set_epoch_overrules_them() -> None:
    loader = TensorLoader(*tensors(40), batch_size=4, shuffle=True)
    passes = [labels_of(loader) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    loader.set_epoch(1)
    assert [labels_of(loader), labels_of(loader)] == passes[1:]

    # An iterator that was made but never asked does not count.
    loader.set_epoch(0)
    iter(loader)
    assert labels_of(loader) == passes[0]


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_global_batches_are_those_of_one_process(world: int, drop_last: bool) -> None:
    n, batch = 53, 3

    def loader(batch_size: int, rank: int, world_size: int) -> TensorLoader:
        return TensorLoader(
            *tensors(n),
            batch_size,
            shuffle=True,
            drop_last=drop_last,
            seed=7,
            rank=rank,
            world_size=world_size,
        )

    whole = loader(batch * world, 0, 1)
    ranks = [loader(batch, rank, world) for rank in range(world)]
    for _ in range(2):
        one = labels_of(whole)
        shards = [labels_of(rank) for rank in ranks]
        assert [len(rank) for rank in ranks] == [len(shard) for shard in shards]
        for t, global_batch in enumerate(one):
            assert [shard[t] if t < len(shard) else [] for shard in shards] == [
                global_batch[rank::world] for rank in range(world)
            ]
        if drop_last:
            assert {len(y) for shard in shards for y in shard} == {batch}
            assert sum(map(len, one)) == n // (batch * world) * batch * world
        else:
            assert sorted(label for shard in shards for batch in shard for label in batch) == list(range(n))


def test_augmentation_is_the_same_for_every_number_of_processes() -> None:
    x, y = torch.zeros(24, 1, 1, 1), torch.arange(24)

    def draws(batch: int, rank: int, world: int) -> dict[int, float]:
        loader = TensorLoader(
            x, y, batch, shuffle=True, rank=rank, world_size=world, augment=lambda x, d: x + d[:, :1, None, None]
        )
        loader.set_epoch(3)
        return {int(label): float(value) for xb, yb in loader for value, label in zip(xb.flatten(), yb, strict=True)}

    one = draws(4, 0, 1)
    assert len(set(one.values())) == 24
    assert {**draws(2, 0, 2), **draws(2, 1, 2)} == one


@pytest.mark.parametrize("kind", ["tensors", "files", "files with workers"])
def test_a_pass_goes_on_where_another_was_broken_off(kind: str, tmp_path: Path) -> None:
    if kind == "tensors":
        data: Any = Synthetic(batch_size=4, train_size=26, val_size=10, augment=True, drop_last=False)
    else:
        write_image_folder(tmp_path, train=5)
        workers = 2 if kind == "files with workers" else 0
        data = ImageFolder(root=tmp_path, image_size=16, num_workers=workers, batch_size=4, drop_last=False)
    data.setup()
    whole, rest = data.train_dataloader(), data.train_dataloader()
    passes = [list(whole), list(whole)]
    rest.skip(2)
    rest.set_epoch(1)
    assert len(rest) == len(whole)
    for expected in (passes[1][2:], None):
        batches = list(rest)
        expected = expected or list(whole)  # only the first pass is short
        assert len(batches) == len(expected)
        for (x, y), (x_expected, y_expected) in zip(batches, expected, strict=True):
            assert torch.equal(x, x_expected)
            assert torch.equal(y, y_expected)


def test_keys_of_generators_do_not_run_into_each_other() -> None:
    firsts = {torch.rand(1, generator=generator(a, b)).item() for a in range(10) for b in range(10)}
    assert len(firsts) == 100


def test_sampler_length() -> None:
    for drop_last in (True, False):
        for world in (1, 2, 3):
            for rank in range(world):
                sampler = EpochSampler(20, 3, drop_last=drop_last, rank=rank, world_size=world)
                assert len(sampler) == len(list(sampler))


class Recorder(LightningModule):
    """Writes down the sum of the pixels of each image, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[int, list[float]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, _ = batch
        self.seen.setdefault(self.current_epoch, []).extend(x.double().sum((1, 2, 3)).tolist())
        return self.layer(x.mean().view(1, 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", batch[0].mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(data: Any, folder: Path, epochs: int, *, at_train_end: bool = True, resume: Path | None = None) -> Recorder:
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=at_train_end)],
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:The dirpath has changed.*")
@pytest.mark.parametrize("kind", ["tensors", "files", "files with workers"])
@pytest.mark.parametrize("at_train_end", [True, False])
def test_lightning_reshuffles_and_resumes_by_epoch(kind: str, at_train_end: bool, tmp_path: Path) -> None:
    if kind != "tensors":
        write_image_folder(tmp_path / "images", train=4)

    def data() -> Any:
        if kind == "tensors":
            return Synthetic(batch_size=4, train_size=24, val_size=10, seed=1)
        workers = 2 if kind == "files with workers" else 0
        return ImageFolder(root=tmp_path / "images", image_size=16, num_workers=workers, batch_size=4, seed=1)

    through = fit(data(), tmp_path / "a", 3, at_train_end=at_train_end).seen
    assert list(through) == [0, 1, 2]
    assert through[0] != through[1] != through[2]

    fit(data(), tmp_path / "b", 2, at_train_end=at_train_end)
    resumed = fit(data(), tmp_path / "c", 3, at_train_end=at_train_end, resume=tmp_path / "b" / "last.ckpt").seen
    assert resumed == {2: through[2]}
