"""The federated simulation: what is averaged, who holds what, and what it measures."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import normzoo
from normzoo.errors import UserError
from normzoo.probes.federated import LOOKS, Client, _average, federated_training


def parts(norm: str, lr: float = 0.05) -> Any:
    """Two classes, told apart by the sign of the pixels' mean: easy to learn."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 2
    x = torch.randn(80, 1, 4, 4, generator=draw) + (2.0 * y - 1).view(-1, 1, 1, 1)
    sets = {"train": (x[:64], y[:64]), "val": (x[64:], y[64:])}
    data = SimpleNamespace(tensors=lambda split: sets[split], num_classes=2, image_shape=(1, 4, 4))

    def model(_: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), normzoo.create(norm, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

    return SimpleNamespace(
        config=SimpleNamespace(seed=0, batch_size_per_device=8),
        data=lambda: data,
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
    )


@pytest.mark.parametrize("skew", ["feature", "label", "none"])
def test_it_learns_and_records(skew: str) -> None:
    options: dict[str, Any] = {"skew": skew, "rounds": 3, "clients": 2, "classes_per_client": 1}
    metrics, arrays = federated_training(parts("local_batch_norm"), **options)
    assert set(metrics) == {"error_0", "error_1", "error_mean", "error_worst", "error_all"}
    assert metrics["error_worst"] == max(metrics["error_0"], metrics["error_1"])
    assert [len(errors) for errors in arrays["federated_errors"]] == [2, 2, 2]
    assert metrics == federated_training(parts("local_batch_norm"), **options)[0]  # same seed, same result
    if skew != "label":
        assert metrics["error_mean"] < 30
    names = {"feature": list(LOOKS)[:2], "none": ["client 0", "client 1"]}
    assert skew == "label" or arrays["federated_clients"] == names[skew]


def test_a_client_with_label_skew_holds_its_classes_alone() -> None:
    options: dict[str, Any] = {"skew": "label", "rounds": 1, "clients": 2, "classes_per_client": 1}
    _, arrays = federated_training(parts("batch_norm"), **options)
    assert sorted(arrays["federated_clients"]) == ["classes 0", "classes 1"]


@pytest.mark.parametrize(("norm", "shared"), [("batch_norm", True), ("local_batch_norm", False)])
def test_the_mean_is_weighted_by_images_and_fedbn_keeps_its_norms(norm: str, shared: bool) -> None:
    clients = []
    for value, images in ((0.0, 1), (4.0, 3)):
        model = nn.Sequential(nn.Linear(2, 2), normzoo.create(norm, 2))
        with torch.no_grad():
            for entry in model.state_dict().values():
                entry.fill_(value)
        train = (torch.zeros(images, 2), torch.zeros(images, dtype=torch.long))
        clients.append(Client("", model, train, train, train))
    _average(clients)
    for client, own in zip(clients, (0.0, 4.0), strict=True):
        for key, value in client.model.state_dict().items():
            assert value.eq(3.0 if shared or key.startswith("0.") else own).all(), key


@pytest.mark.parametrize(
    "wrong", [{"skew": "colour"}, {"clients": 5}, {"rounds": 0}, {"skew": "label", "classes_per_client": 3}]
)
def test_what_is_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"study\."):
        federated_training(parts("batch_norm"), **wrong)
