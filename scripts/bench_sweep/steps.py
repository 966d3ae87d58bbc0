"""What a training step of a cell costs beside that of a plain loop over the same data, model and optimizer."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.nn import functional as F

from normzoo.bench.measurement import Measurement
from normzoo.training.cell import run_cell
from normzoo.training.check import check_cell
from normzoo.training.config import CellConfig, parse
from normzoo.training.instantiate import build_data, build_model, build_optimizer, schedule
from normzoo.training.small_batches import convolving
from normzoo.training.trainable import trained

CASES = tuple((model, batch) for model in ("plain_cnn", "lenet5") for batch in (2, 8, 32))


def small_steps(cases: Sequence[tuple[str, int]] = CASES, steps: int = 200, rounds: int = 5) -> Measurement:
    """The milliseconds a step of a cell to those of a plain loop, as they are where that is the most.

    Args:
        cases: Model and batch.
        steps: Of each training.
        rounds: How often each of the two is trained, in turn; a case's figure is the ratio of their medians.
    """
    told = {}
    for model, batch in cases:
        config = _config(model, batch, steps)
        times = [(_cell(config), _loop(config)) for _ in range(rounds)]
        ours, plain = map(statistics.median, zip(*times, strict=True))
        told[f"{model} batch {batch} {ours / plain:.2f} of {plain:.2f} ms"] = ours / plain
    note = f"{steps} steps with batch_norm; {', '.join(told)}"
    return Measurement("a step, to that of a plain loop, at most", "×", 1.15, True, (max(told.values()),), note)


def _config(model: str, batch: int, steps: int) -> CellConfig:
    side = 28 if model == "lenet5" else 8
    overrides = [
        f"model={model}", "norm=batch_norm", "data=synthetic", f"data.image_size={side}", "data.val_size=64",
        f"data.train_size={batch * steps}", f"batch_size_per_device={batch}", "trainer=cpu", "trainer.max_epochs=1",
    ]  # fmt: skip
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        return parse(OmegaConf.to_container(compose("train", overrides), resolve=True))  # type: ignore[arg-type]


def _cell(config: CellConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = run_cell(config, Path(folder) / "cell")
    assert result is not None
    return float(result.time["ms_per_step"])


def _loop(config: CellConfig) -> float:
    """Milliseconds a step of what one would write by hand."""
    data: Any = build_data(config)
    data.setup("fit")
    torch.manual_seed(config.seed)
    model = build_model(config, data.image_shape, data.num_classes).train()
    convolved = convolving(config.batch_size_per_device, check_cell(config, data).multiply_adds)
    optimizer = build_optimizer(config, trained(model))
    batches = data.train_dataloader()
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(config.optimizer, len(batches)))
    loss_sum = torch.zeros(())
    started = time.perf_counter()
    for x, y in batches:
        with convolved:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        rate.step()
        loss_sum += loss.detach()
    return 1e3 * (time.perf_counter() - started) / len(batches)
