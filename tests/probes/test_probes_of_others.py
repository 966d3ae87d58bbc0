"""What a measurement costs, counted in passes; and the callbacks in a training that is none of ours."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from normzoo.errors import UserError
from normzoo.probes.activation_distribution import ActivationDistributionProbe, activation_distribution
from normzoo.probes.activation_health import ActivationHealthProbe, activation_health, gradient_norms
from normzoo.probes.covariate_shift import CovariateShiftProbe, covariate_shift
from normzoo.probes.loss_landscape import LossLandscape, loss_landscape
from normzoo.probes.loss_surface import LossSurface, loss_surface
from normzoo.probes.output_noise import OutputNoise
from normzoo.probes.statistic_noise import StatisticNoiseProbe, statistic_noise

PASSES: Counter[str] = Counter()  # not in the model, of which probes measure copies
LAYERS = 3


class _CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        PASSES["backward"] += 1
        return gradient


class Counted(nn.Module):
    """A net of torch alone, with dropout, that counts how often it is gone through."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        PASSES["forward"] += 1
        return _CountBackward.apply(self.net(x))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 4), torch.arange(8) % 3


def shift(model: nn.Module, both: Any) -> Any:
    before = dict(model.named_parameters())
    return covariate_shift(model, F.cross_entropy, both, before, {name: 0.9 * p for name, p in before.items()})


@pytest.mark.parametrize(
    ("measure", "forward", "backward"),
    [
        (lambda model, both: loss_landscape(model, F.cross_entropy, both), 1 + 6, 1 + 6),
        (lambda model, both: loss_landscape(model, F.cross_entropy, both, [0.1, 1.0]), 1 + 2, 1 + 2),
        (lambda model, both: loss_surface(model, F.cross_entropy, both), 21**2, 0),
        (lambda model, both: loss_surface(model, F.cross_entropy, both, [0.0, 1.0], [0.0, 1.0, 2.0]), 2 * 3, 0),
        (shift, LAYERS + 1, LAYERS),
        (lambda model, both: activation_distribution(model, both[0]), 1, 0),
        (lambda model, both: activation_health(model, [both[0]] * 3), 3, 0),
        (lambda model, both: gradient_norms(model, F.cross_entropy, both), 1, 1),
        (lambda model, both: statistic_noise(model, [both[0]] * 4), 4, 0),
    ],
)
def test_a_measurement_costs_the_passes_that_it_says(
    measure: Callable[[nn.Module, Any], Any], forward: int, backward: int
) -> None:
    model, both = Counted(), batch()
    PASSES.clear()
    measure(model, both)
    assert (PASSES["forward"], PASSES["backward"]) == (forward, backward)


class Theirs(LightningModule):
    """A user's own module, whose net is not an attribute `model`."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Counted()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def training_step(self, both: Any, index: int) -> Tensor:
        return F.cross_entropy(self(both[0]), both[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


STEPS = 8  # 2 epochs of 4


def fitted(*probes: Any) -> list[Tensor]:
    """The weights and running statistics after a training on shuffled batches, with these callbacks."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, 4), torch.arange(32) % 3)
    module = Theirs()
    loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(1))
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(probes),
    )  # fmt: skip
    PASSES.clear()
    trainer.fit(module, loader)
    return list(module.state_dict().values())


@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*logging interval")
@pytest.mark.parametrize(
    ("probe", "forward", "backward"),
    [
        (lambda: LossLandscape(every=4), 2 * 7, 2 * 7),
        (lambda: LossLandscape(every=1000), 7, 7),
        (lambda: CovariateShiftProbe(every=4), 2 * (LAYERS + 1), 2 * LAYERS),
        (lambda: ActivationDistributionProbe(every=4, samples=None), 2 * 2, 0),
        (lambda: ActivationDistributionProbe(every=4, samples=16), 2 * 2, 0),
        (lambda: ActivationHealthProbe(every=4), 2 * 2, 2),
        (lambda: ActivationHealthProbe(every=4, samples=24), 2 * (3 + 1), 2),
        (lambda: StatisticNoiseProbe(batches=4), 2 * 4, 0),
        (lambda: LossSurface(points=3, samples=16), 9, 0),
    ],
)
def test_a_callback_measures_any_training_at_its_cost_and_does_not_change_it(
    probe: Callable[[], Any], forward: int, backward: int
) -> None:
    made = probe()
    probed = fitted(made)
    assert (PASSES["forward"], PASSES["backward"]) == (STEPS + forward, STEPS + backward)
    assert made.recording()
    assert all(value is not None for value in made.summary().values())
    plain = fitted()
    assert (PASSES["forward"], PASSES["backward"]) == (STEPS, STEPS)
    assert all(torch.equal(a, b) for a, b in zip(probed, plain, strict=True))


@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*logging interval")
def test_output_noise_costs_no_pass_and_leaves_no_hook() -> None:
    fitted(OutputNoise())
    assert (PASSES["forward"], PASSES["backward"]) == (STEPS, STEPS)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(4), 0)] * 8)


def test_data_that_cannot_be_had_again_is_refused() -> None:
    from normzoo.probes._callback import _in_order

    with pytest.raises(UserError, match="DataLoader over a map-style data set"):
        _in_order(DataLoader(Stream(), 4), 4)
    with pytest.raises(UserError, match="needs 9 training images, but there are only 8"):
        _in_order(DataLoader(TensorDataset(torch.zeros(8, 4)), 4), 9)
