"""Training a part of the parameters: what moves, what stays, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from normzoo.errors import RefusedError
from normzoo.training.cell import run_cell
from normzoo.training.config import CellConfig, parse
from normzoo.training.instantiate import build_model, build_optimizer
from normzoo.training.trainable import choose_trained, counts, trained

SMALL = ("data=digits", "trainer=cpu", "data.train_size=128", "data.val_size=40", "trainer.max_epochs=1")


def config_of(*overrides: str) -> CellConfig:
    with initialize_config_module("normzoo.conf", version_base="1.3"):
        return parse(OmegaConf.to_container(compose("train", [*SMALL, *overrides]), resolve=True))  # type: ignore[arg-type]


def moved(choice: str, *overrides: str) -> tuple[nn.Module, set[str]]:
    """The model after three steps, and the names of the entries of its state that are no longer what they were."""
    config = config_of(f"optimizer.trains={choice}", *overrides)
    torch.manual_seed(0)
    model = build_model(config, (1, 8, 8), 10)
    choose_trained(model, config.optimizer.trains)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(config, trained(model))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 10).backward()
        optimizer.step()
    return model, {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("choice", ["norms", "last", "norms_and_last"])
def test_only_what_is_chosen_moves(choice: str) -> None:
    _, names = moved(choice)
    parameters = {name for name in names if "running" not in name and "num_batches" not in name}
    norms = {name for name in parameters if ".norm." in name}
    assert len(norms) == (8 if choice != "last" else 0)
    assert parameters - norms == (set() if choice == "norms" else {"classifier.weight", "classifier.bias"})
    assert any("running_mean" in name for name in names)  # the statistics are no parameters


def test_sampled_weights_are_as_many_as_a_norm_has_and_the_others_keep_still() -> None:
    model, names = moved("sampled")
    assert {name for name in names if "running" not in name and "num_batches" not in name} == {
        f"stages.{stage}.conv.parametrizations.weight.original" for stage in range(4)
    }
    config = config_of("optimizer.trains=sampled")
    norms = config_of("optimizer.trains=norms")
    other = build_model(norms, (1, 8, 8), 10)
    whole = sum(parameter.numel() for parameter in other.parameters())
    choose_trained(other, norms.optimizer.trains)
    assert (
        counts(model, "sampled") == counts(other, "norms") == {"trained_parameters": 240.0, "parameters": float(whole)}
    )
    torch.manual_seed(0)
    start: Any = build_model(config, (1, 8, 8), 10)
    conv: Any = model.get_submodule("stages.0.conv")
    changed = conv.weight != start.stages[0].conv.weight
    assert changed.flatten(1).sum(1).eq(2).all()


def test_by_default_all_are_trained() -> None:
    config = config_of()
    model = build_model(config, (1, 8, 8), 10)
    choose_trained(model, config.optimizer.trains)
    assert len(list(trained(model))) == len(list(model.parameters()))
    assert counts(model, "all") == {}
    assert config.identity != config_of("optimizer.trains=norms").identity


def test_a_cell_is_trained_so_and_says_how_many(tmp_path: Path) -> None:
    result = run_cell(config_of("optimizer.trains=norms"), tmp_path)
    assert result is not None
    assert result.metrics["trained_parameters"] == 240


def test_nothing_to_train_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="leaves nothing to train"):
        run_cell(config_of("optimizer.trains=norms", "norm=identity"), tmp_path)
    with pytest.raises(RefusedError, match="choose one of all, norms, last"):
        run_cell(config_of("optimizer.trains=most"), tmp_path)
