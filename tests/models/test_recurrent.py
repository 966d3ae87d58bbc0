"""Recurrent networks: torch's own without norms, statistics by time step, weights shared over the steps."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normzoo
from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.recurrent import Recurrent


def build(placement=None, norm="batch_norm", **options):
    norm_layer = normzoo.factory(norm)
    options = {"in_channels": 1, "num_classes": 10, "image_size": 6, "hidden": 5, **options}
    return Recurrent(norm_layer, placement or Placement(), **options)


NOWHERE = Placement(where="none")


@pytest.mark.parametrize(("cell", "theirs"), [("lstm", nn.LSTM), ("rnn", nn.RNN)])
def test_without_norms_it_is_torchs(cell, theirs):
    ours, theirs = build(NOWHERE, cell=cell, in_channels=2).double(), theirs(12, 5, batch_first=True).double()
    theirs.load_state_dict(
        {
            "weight_ih_l0": ours.input.weight,
            "weight_hh_l0": ours.hidden.weight,
            "bias_ih_l0": ours.bias,
            "bias_hh_l0": torch.zeros_like(ours.bias),
        }
    )
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    rows = x.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours(x), ours.output(theirs(rows)[0][:, -1]))


def test_parameters_as_expected():
    assert sum(p.numel() for p in build(NOWHERE).parameters()) == 4 * 5 * (6 + 5 + 1) + 5 * 10 + 10
    # The weights and biases of norms, each once however many steps share them.
    assert sum(p.numel() for p in build().parameters()) - sum(p.numel() for p in build(NOWHERE).parameters()) == 2 * 45


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm", "rms_norm"])
def test_a_step_is_the_equation(norm):
    model = build(norm=norm).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(7, 1, 6, 6, dtype=torch.float64)
    apart = {}
    for name, layers, size in (("x", model.norm_x, 20), ("h", model.norm_h, 20), ("c", model.norm_c, 5)):
        apart[name] = normzoo.create(norm, size).double()
        apart[name].load_state_dict(layers[0].state_dict())
    h = c = torch.zeros(7, 5, dtype=torch.float64)
    for t in range(6):
        gates = apart["x"](x[:, 0, t] @ model.input.weight.T) + model.bias
        if t:
            gates = gates + apart["h"](h @ model.hidden.weight.T)
        i, f, g, o = gates.split(5, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(apart["c"](c))
    torch.testing.assert_close(model(x), model.output(h))


def test_every_step_has_statistics_of_its_own_and_all_share_the_weights():
    model = build()
    assert [len(layers) for layers in (model.norm_x, model.norm_h, model.norm_c)] == [6, 5, 6]
    x = torch.randn(50, 1, 6, 6) + torch.arange(6.0).view(6, 1)  # rows of other means
    model(x)
    expected = 0.1 * model.input(x[:, 0]).mean(0)
    torch.testing.assert_close(torch.stack([norm.running_mean for norm in model.norm_x]), expected)
    for layers in (model.norm_x, model.norm_h, model.norm_c):
        assert len({id(norm.weight) for norm in layers}) == len({id(norm.bias) for norm in layers}) == 1
        assert len({id(norm.running_mean) for norm in layers}) == len(layers)


def test_weights_stay_shared_in_copies_and_after_a_step():
    for model in (build(), copy.deepcopy(build()), pickle.loads(pickle.dumps(build())), build().double().float()):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model(torch.randn(4, 1, 6, 6)).square().sum().backward()
        optimizer.step()
        assert all(norm.weight is model.norm_x[0].weight for norm in model.norm_x)
        assert (model.norm_x[3].weight != 1).any()


def test_one_norm_for_all_steps():
    model = build(per_step=False)
    assert [len(layers) for layers in (model.norm_x, model.norm_h, model.norm_c)] == [1, 1, 1]
    model(torch.randn(4, 1, 6, 6))
    assert model.norm_x[0].num_batches_tracked == 6
    assert model.norm_h[0].num_batches_tracked == 5
    # A norm without statistics of a batch does not know the difference.
    torch.manual_seed(0)
    apart = build(norm="layer_norm")
    torch.manual_seed(0)
    together = build(norm="layer_norm", per_step=False)
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(apart(x), together(x), rtol=0, atol=0)


def test_more_rows_than_said_use_the_norm_of_the_last_step():
    model = build().eval()
    assert model(torch.randn(2, 1, 9, 6)).shape == (2, 10)
    with torch.no_grad():
        model.norm_x[5].running_mean += 1
    taller, as_said = torch.randn(2, 1, 9, 6), torch.randn(2, 1, 5, 6)
    changed = model(taller), model(as_said)
    with torch.no_grad():
        model.norm_x[5].running_mean -= 1
    assert not torch.allclose(model(taller), changed[0])
    torch.testing.assert_close(model(as_said), changed[1])


@pytest.mark.parametrize(
    ("cell", "where", "expected"),
    [
        ("lstm", "all", (6, 5, 6)),
        ("lstm", "first", (6, 0, 0)),
        ("lstm", "last", (0, 0, 6)),
        ("lstm", "all_but_last", (6, 5, 0)),
        ("lstm", [1], (0, 5, 0)),
        ("rnn", "all", (6, 5, 0)),
        ("rnn", "last", (0, 5, 0)),
    ],
)
def test_where_the_norms_are(cell, where, expected):
    model = build(Placement(where=where), cell=cell)
    assert (len(model.norm_x), len(model.norm_h), len(model.norm_c)) == expected
    assert model(torch.randn(3, 1, 6, 6)).shape == (3, 10)


def test_how_weights_start():
    model = build(hidden=8)
    # Four orthogonal matrices in one have orthonormal columns.
    torch.testing.assert_close(model.hidden.weight.T @ model.hidden.weight, torch.eye(8), atol=1e-5, rtol=0)
    assert model.bias.view(4, 8).sum(1).tolist() == [0, 8, 0, 0]
    scaled = build(hidden=8, init_scale=2.0)
    torch.testing.assert_close(scaled.hidden.weight.T @ scaled.hidden.weight, 4 * torch.eye(8), atol=1e-5, rtol=0)
    he = build(hidden=200, init="he_normal").hidden.weight
    assert he.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert all((norm.weight == 0.1).all() for _, norm in normzoo.norm_layers(build(norm_weight=0.1)))
    assert all((norm.weight == 1).all() for _, norm in normzoo.norm_layers(build()))
    build(norm="identity", norm_weight=0.1)


def test_the_first_rows_may_be_empty():
    """As those of digits are, where every image has the same value and a batch no variance."""
    model, x = build(), torch.randn(8, 1, 6, 6)
    x[:, :, :2] = -0.4
    model(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_learns_to_tell_the_order_of_rows():
    torch.manual_seed(0)
    model = build(image_size=4, hidden=16, num_classes=2, norm_weight=0.1)
    rows = torch.randn(64, 1, 4, 4)
    rising = torch.linspace(-1, 1, 4).view(4, 1)
    x, y = torch.cat([rows + rising, rows - rising]), torch.arange(128) // 64
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "gru"}, "cell='gru' is unknown; choose one of lstm, rnn"),
        ({"hidden": 0}, "lstm: hidden must be a positive integer"),
        ({"cell": "rnn", "hidden": 2.5}, "rnn: hidden must be"),
        ({"image_size": None}, "lstm needs the size of the images"),
        ({"placement": Placement("post_act")}, "placement.order=post_act is not possible in a recurrent cell"),
        ({"placement": Placement(where=[3])}, "this model has 3 stages: 0 to 2"),
        ({"cell": "rnn", "placement": Placement(where=[2])}, "this model has 2 stages: 0 to 1"),
        ({"init": "ones"}, "init='ones' is unknown"),
        ({"dropout": 2}, "dropout=2 must be"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_rows_of_another_length_are_refused():
    with pytest.raises(UserError, match=r"rows of 6 values .* got 8: set model.image_size"):
        build()(torch.randn(2, 1, 8, 8))
