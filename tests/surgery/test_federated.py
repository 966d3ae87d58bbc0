"""Federated averaging with local batch norms: what is sent, what is taken in, and what stays as it is."""

import copy

import pytest
import torch
from torch import nn

import normzoo
from normzoo.surgery.federated import load_shared_state, local_keys, shared_state


def a_client(norm="local_batch_norm"):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), normzoo.create(norm, 4), nn.ReLU(), nn.Conv2d(4, 2, 3), normzoo.create("batch_norm", 2)
    )


HOME = ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]


def test_all_but_the_local_batch_norms_is_shared():
    model = a_client()
    assert local_keys(model) == HOME
    assert [key for key in model.state_dict() if key not in HOME] == list(shared_state(model))
    assert "4.running_mean" in shared_state(model), "batch_norm is not local"


def test_a_local_batch_norm_with_its_activation_stays_at_home_too():
    """Its keys are those of the norm alone."""
    layer = normzoo.factory("local_batch_norm")(4, act_layer=nn.PReLU)
    assert local_keys(nn.Sequential(nn.Conv2d(1, 4, 3), layer)) == HOME


def test_what_is_taken_in_leaves_the_local_batch_norms():
    model, other = a_client(), a_client()
    for client in (model, other):
        client(torch.randn(4, 1, 8, 8))
    at_home = {key: value.clone() for key, value in model.state_dict().items() if key in HOME}
    assert load_shared_state(model, shared_state(other)) is model
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, at_home.get(key, other.state_dict()[key]), rtol=0, atol=0)


def test_a_round_of_federated_averaging():
    """Two clients on data of different offsets agree in all that is shared, and each normalizes its own data."""
    clients, offsets = [a_client() for _ in range(2)], (-3.0, 3.0)
    for client, offset in zip(clients, offsets, strict=True):
        client[1].momentum = None
        optimizer = torch.optim.SGD(client.parameters(), lr=0.1)
        for _ in range(2):
            client(torch.randn(8, 1, 8, 8) + offset).square().mean().backward()
            optimizer.step()
    states = [shared_state(client) for client in clients]
    average = {
        key: torch.stack([state[key].float() for state in states]).mean(0).to(states[0][key].dtype) for key in states[0]
    }
    for client in clients:
        load_shared_state(client, average)
    for key, value in shared_state(clients[0]).items():
        assert torch.equal(value, shared_state(clients[1])[key])
    assert not torch.allclose(clients[0][1].running_mean, clients[1][1].running_mean)


def test_other_layers_are_kept_at_home_by_their_class():
    """FedBN on a model that is not built of `local_batch_norm`."""
    model = a_client("batch_norm")
    assert local_keys(model) == []
    assert set(shared_state(model, local=nn.BatchNorm2d)) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert set(shared_state(model, local=(nn.BatchNorm2d, nn.Conv2d))) == set()
    load_shared_state(model, shared_state(model, local=nn.BatchNorm2d), local=nn.BatchNorm2d)


def test_a_layer_alone_and_a_layer_in_two_places():
    assert shared_state(normzoo.create("local_batch_norm", 4)) == {}
    norm = normzoo.create("local_batch_norm", 4)
    model = nn.ModuleDict({"norm": norm, "normal": nn.Linear(2, 2), "again": norm})
    assert set(shared_state(model)) == {"normal.weight", "normal.bias"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("0.bias"), "'0.bias' is missing"),
        (lambda state: state.update({"9.bias": torch.zeros(1)}), "'9.bias' is not in the model"),
        (lambda state: state.update({"1.bias": torch.zeros(4)}), "'1.bias' is local"),
        (lambda state: state.update({"3.bias": torch.zeros(3)}), "'3.bias' has another shape"),
    ],
)
def test_a_state_that_is_not_the_shared_one_is_refused_whole(change, said):
    model = a_client()
    state = {key: value + 1 for key, value in shared_state(model).items()}
    change(state)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"match the shared state of Sequential: {said}; create it with shared_state"):
        load_shared_state(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_it_computes_what_batch_norm_does():
    layer, other = normzoo.create("local_batch_norm", 4), normzoo.create("batch_norm", 4)
    assert not isinstance(layer, nn.BatchNorm2d), "what converts by class would take it"
    for _ in range(2):
        x = torch.randn(6, 4, 3, 3)
        assert torch.equal(layer(x), other(x))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in layer.state_dict().items())
