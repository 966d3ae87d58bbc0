"""Simulate federated averaging: clients with different data train copies of one model, and a server averages them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normzoo.errors import UserError
from normzoo.probes._supervised import check_counts, error_of, fit
from normzoo.surgery.federated import load_shared_state, shared_state

# How a client's camera changes images of mean 0 and variance 1.
LOOKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda x: x,
    "contrast 0.25": lambda x: 0.25 * x,
    "brighter by 2": lambda x: x + 2.0,
    "negatives": lambda x: -x,
}
SKEWS = ("feature", "label", "none")


@dataclass
class Client:
    """A client with its own model and data; `test` is data of its own kind, `everything` has all classes."""

    name: str
    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    everything: tuple[Tensor, Tensor]


def federated_training(
    parts: Any,
    *,
    skew: str = "feature",
    rounds: int = 15,
    local_epochs: int = 1,
    clients: int = 4,
    classes_per_client: int = 3,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train by federated averaging, and measure each client's averaged model on data of its own kind.

    In each round every client trains on its own images from a fresh optimizer and sends its state to the server, which
    averages the states, weighted by the clients' images. The layers of `local_batch_norm` are not averaged (FedBN); all
    other norms are, including running statistics (FedAvg).

    Training images are split among the clients at random, equally. With skew `feature` each client's images differ in
    contrast, brightness or sign (`LOOKS`), for training and validation. With `label` each client holds a few classes.

    Args:
        parts: Model, data, optimizer, batch size and seed of the cell.
        skew: `feature`, `label` or `none`.
        rounds: Rounds of training and averaging.
        local_epochs: Epochs of each client per round.
        clients: Number of clients; with `feature` at most as many as there are looks.
        classes_per_client: Used with skew `label`.

    Returns:
        Errors in percent after the last round: `error_<i>` of client i on data of its own kind, their mean `error_mean`
        and maximum `error_worst`; `error_all`, the mean over clients on validation images of all classes, in the
        client's look.
        Arrays: `federated_errors` (rounds, clients), `federated_errors_all`, `federated_clients`.

    Raises:
        UserError: If an option is out of range.

    Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1; Li et al. 2021, arXiv:2102.07623, Algorithm 1.
    """
    data = parts.data()
    _check(skew, clients, classes_per_client, data.num_classes, rounds=rounds, local_epochs=local_epochs)
    draw = torch.Generator().manual_seed(parts.config.seed)
    model = parts.model(data)
    shares = _shares(data.tensors("train"), skew, clients, classes_per_client, data.num_classes, draw)
    here = [_client(copy.deepcopy(model), i, share, data.tensors("val"), skew) for i, share in enumerate(shares)]
    own, everything = [], []
    for _ in range(rounds):
        for client in here:
            _train(client, parts, local_epochs, draw)
        _average(here)
        own.append([error_of(client.model, client.test) for client in here])
        everything.append([error_of(client.model, client.everything) for client in here])
    last = own[-1]
    metrics = {f"error_{i}": error for i, error in enumerate(last)}
    metrics |= {"error_mean": sum(last) / clients, "error_worst": max(last)}
    metrics["error_all"] = sum(everything[-1]) / clients
    names = [client.name for client in here]
    return metrics, {"federated_errors": own, "federated_errors_all": everything, "federated_clients": names}


def _check(skew: str, clients: int, classes_per_client: int, classes: int, **positive: int) -> None:
    if skew not in SKEWS:
        raise UserError(f"unknown study.skew={skew}; choose one of {', '.join(SKEWS)}")
    check_counts(clients=clients, classes_per_client=classes_per_client, **positive)
    if skew == "feature" and clients > len(LOOKS):
        raise UserError(f"study.clients={clients} must be at most {len(LOOKS)} with study.skew=feature")
    if skew == "label" and classes_per_client > classes:
        raise UserError(
            f"study.classes_per_client={classes_per_client} must be at most {classes}, the classes of the data set"
        )


def _shares(
    train: tuple[Tensor, Tensor], skew: str, clients: int, per_client: int, classes: int, draw: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Split the training images among the clients; with `label`, each class among the clients that hold it."""
    x, y = train
    if skew != "label":
        order = torch.randperm(len(y), generator=draw)
        return [(x[part], y[part]) for part in order.tensor_split(clients)]
    turns = torch.randperm(classes, generator=draw).tolist()
    held = [[turns[(i * per_client + j) % classes] for j in range(per_client)] for i in range(clients)]
    taken: list[list[Tensor]] = [[] for _ in held]
    for label in range(classes):
        holders = [i for i, labels in enumerate(held) if label in labels]
        found = (y == label).nonzero().squeeze(1)
        found = found[torch.randperm(len(found), generator=draw)]
        for i, part in zip(holders, found.tensor_split(max(1, len(holders))), strict=False):
            taken[i].append(part)
    return [(x[index], y[index]) for index in map(torch.cat, taken)]


def _client(model: nn.Module, i: int, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], skew: str) -> Client:
    name, look = list(LOOKS.items())[i] if skew == "feature" else (f"client {i}", LOOKS["as they are"])
    labels = train[1].unique()
    if skew == "label":
        name = f"classes {', '.join(str(int(label)) for label in labels)}"
    everything = (look(val[0]), val[1])
    held = torch.isin(val[1], labels)
    return Client(name, model, (look(train[0]), train[1]), (everything[0][held], val[1][held]), everything)


def _train(client: Client, parts: Any, epochs: int, draw: torch.Generator) -> None:
    client.model.train()
    optimizer = parts.optimizer(client.model.parameters())
    fit(client.model, client.train, optimizer, draw, batch_size=parts.config.batch_size_per_device, epochs=epochs)


@torch.no_grad()
def _average(clients: Sequence[Client]) -> None:
    """Give every client the mean of all shared states, weighted by their images; local layers keep theirs."""
    total = sum(len(client.train[1]) for client in clients)
    shares = [len(client.train[1]) / total for client in clients]
    states = [shared_state(client.model) for client in clients]
    mean = {
        key: torch.stack([share * state[key].double() for share, state in zip(shares, states, strict=True)])
        .sum(0)
        .to(value.dtype)
        for key, value in states[0].items()
    }
    for client in clients:
        load_shared_state(client.model, mean)
