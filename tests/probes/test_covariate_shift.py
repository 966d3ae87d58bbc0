"""Internal covariate shift of linear nets, where it is known in closed form, and the order of layers."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normzoo
from normzoo.probes.covariate_shift import covariate_shift
from normzoo.recording import read_recording
from normzoo.training.cell import run_cell


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def linear_net(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))).double()


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / 2


def closed_form(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, i: int) -> np.ndarray:
    """∂/∂W_i of ½‖W_k ··· W_1 x − y‖², with samples as columns."""
    below, above = x, np.eye(weights[-1].shape[0])
    for w in weights[:i]:
        below = w @ below
    for w in reversed(weights[i + 1 :]):
        above = above @ w
    error = above @ weights[i] @ below - y
    return above.T @ error @ below.T


def test_a_linear_net_has_the_shift_of_the_closed_form() -> None:
    model = linear_net(4, 5, 3, 2)
    x, y = torch.randn(7, 4).double(), torch.randn(7, 2).double()
    before = parameters(model)
    after = {name: value + 0.1 * torch.randn_like(value) for name, value in before.items()}
    found = covariate_shift(model, half_square, (x, y), before, after)

    old, new = ([w.numpy() for w in weights.values()] for weights in (before, after))
    assert found.layers == ("0", "1", "2")
    for i in range(3):
        g = closed_form(old, x.numpy().T, y.numpy().T, i)
        moved = closed_form([*new[:i], *old[i:]], x.numpy().T, y.numpy().T, i)
        assert float(found.distances[i]) == pytest.approx(np.linalg.norm(g - moved), rel=1e-10, abs=1e-12)
        assert float(found.gradient_norms[i]) == pytest.approx(np.linalg.norm(g), rel=1e-10)
        cosine = (g * moved).sum() / np.linalg.norm(g) / np.linalg.norm(moved)
        assert float(found.cosines[i]) == pytest.approx(cosine, rel=1e-10)
    assert float(found.distances[0]) == 0
    assert min(found.distances[1:].tolist()) > 0.01


def test_an_update_of_the_last_layer_alone_shifts_nothing() -> None:
    model = linear_net(4, 5, 3, 2)
    before = parameters(model)
    after = {**before, "2.weight": before["2.weight"] + 1}
    found = covariate_shift(model, half_square, (torch.randn(7, 4).double(), torch.randn(7, 2).double()), before, after)
    assert found.distances.tolist() == [0, 0, 0]
    assert found.cosines.tolist() == pytest.approx([1, 1, 1])


class Backwards(nn.Module):
    """Calls its layers in another order than it has them, one norm before all, and one layer never."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(4, 3)
        self.never = nn.Linear(9, 9)
        self.norm = normzoo.create("batch_norm", 4)
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(2, 4))
        self.entrance = normzoo.create("batch_norm", 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.norm(self.first(self.entrance(x)))))


def test_layers_count_in_the_order_of_their_calls_and_norms_move_with_the_layer_before() -> None:
    model = Backwards()
    batch = torch.randn(6, 2), torch.arange(6) % 3
    before = parameters(model)

    def shift(*moved: str) -> Mapping[str, float]:
        after = {name: value + (name in moved) * torch.randn_like(value) for name, value in before.items()}
        found = covariate_shift(model, F.cross_entropy, batch, before, after)
        return dict(zip(found.layers, found.distances.tolist(), strict=True))

    assert list(shift()) == ["first", "second"]
    assert shift("second.weight", "second.bias") == {"first": 0, "second": 0}
    for name in ("norm.bias", "entrance.weight", "first.bias", "first.parametrizations.weight.original1"):
        found = shift(name)
        assert found["first"] == 0
        # A bias before batch norm changes nothing, and so no gradient after it.
        assert (found["second"] > 1e-3) == (name != "first.bias"), name


def test_a_missing_parameter_is_named() -> None:
    model = linear_net(2, 2)
    with pytest.raises(ValueError, match=r"0\.weight is missing"):
        covariate_shift(model, half_square, (torch.zeros(1, 2), torch.zeros(1, 2)), parameters(model), {})
    with pytest.raises(ValueError, match="no layer"):
        covariate_shift(nn.ReLU(), half_square, (torch.zeros(1, 2), torch.zeros(1, 2)), {}, {})


@pytest.mark.parametrize("norm", normzoo.list_norms(kind="layer"))
def test_a_measurement_leaves_no_trace(norm: str, leaves_no_trace: Any) -> None:
    def measure(model: nn.Module, batch: Any) -> None:
        before = parameters(model)
        covariate_shift(model, F.cross_entropy, batch, before, {n: 0.9 * v for n, v in before.items()})

    leaves_no_trace(measure, norm)


def test_a_cell_measures_the_update_that_its_optimizer_made(config: Any, tmp_path: Any) -> None:
    """Two steps of SGD on one batch of everything, repeated by hand."""
    chosen = (
        "data.train_size=20", "batch_size_per_device=20", "norm=group_norm", "optimizer.schedule=constant",
        "optimizer.momentum=0", "optimizer.weight_decay=0", "trainer.max_epochs=2",
    )  # fmt: skip
    cell = config(*chosen, "+probe=covariate_shift", "probe.covariate_shift.every=1")
    result = run_cell(cell, tmp_path / "a")
    assert result.curve == run_cell(config(*chosen), tmp_path / "b").curve
    arrays = read_recording(tmp_path / "a")
    assert arrays["shift_step"].tolist() == [0, 1]
    assert arrays["shift_distances"].shape == (2, 5)
    assert arrays["shift_layers"].tolist() == [*(f"stages.{i}.conv" for i in range(4)), "classifier"]

    import lightning

    from normzoo.training.config import parse
    from normzoo.training.instantiate import Parts

    lightning.seed_everything(0, verbose=False)
    parts = Parts(parse(cell))
    data = parts.data()
    model = parts.model(data)
    x, y = next(iter(data.train_dataloader()))
    before = parameters(model)
    F.cross_entropy(model(x), y).backward()
    after = {name: p.detach() - result.metrics["lr"] * p.grad for name, p in model.named_parameters()}
    expected = covariate_shift(model, F.cross_entropy, (x, y), before, after)
    np.testing.assert_allclose(arrays["shift_distances"][0], expected.distances, rtol=1e-4)
    np.testing.assert_allclose(arrays["shift_cosines"][0], expected.cosines, rtol=1e-4)
    medians = np.median(arrays["shift_distances"][:, 1:].mean(1))
    assert result.metrics["covariate_shift"] == pytest.approx(medians)
