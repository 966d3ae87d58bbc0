"""With a mask, the output at valid positions is that of the computation without padding."""

import copy

import pytest
import torch
from torch import nn

import normzoo

LENGTHS = (7, 4, 5)
LAYERS = {
    "batch_norm": {},
    "batch_norm_scratch": {"momentum": None},
    "local_batch_norm": {"affine": False},
    "layer_norm": {},
    "layer_norm_scratch": {},
    "layer_norm_channel": {},
    "instance_norm": {},
    "instance_norm_scratch": {},
    "group_norm": {"num_groups": 2},
    "group_norm_scratch": {"num_groups": 2},
    "rms_norm": {},
}


def build(name: str, **options) -> nn.Module:
    layer = normzoo.create(name, 4, **LAYERS[name], **options).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def padded() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Sequences of unequal lengths, padded with what must not matter, their mask, and the sequences alone."""
    sequences = [2 * torch.randn(4, length, dtype=torch.float64) + 3 for length in LENGTHS]
    x = torch.full((3, 4, 7), float("nan"), dtype=torch.float64)
    for i, sequence in enumerate(sequences):
        x[i, :, : sequence.shape[1]] = sequence
    return x, torch.arange(7) < torch.tensor(LENGTHS)[:, None], sequences


def without_padding(layer: nn.Module, sequences: list[torch.Tensor]) -> torch.Tensor:
    """The outputs of valid positions, (C, positions)."""
    if "batch" in type(layer).__name__.lower():
        return layer(torch.cat(sequences, 1)[None])[0]
    return torch.cat([layer(sequence[None])[0] for sequence in sequences], 1)


@pytest.mark.parametrize("form", ["(N, *)", "(N, 1, *)"])
@pytest.mark.parametrize("kind", LAYERS)
def test_valid_positions_are_as_without_padding(kind, form):
    x, mask, sequences = padded()
    layer = build(kind)
    twin = copy.deepcopy(layer)
    x.requires_grad_()
    y = layer(x, mask=mask if form == "(N, *)" else mask[:, None])
    expected = without_padding(twin, [sequence.requires_grad_() for sequence in sequences])
    torch.testing.assert_close(y.transpose(0, 1)[:, mask], expected)
    assert not y.transpose(0, 1)[:, ~mask].any()
    weights = torch.randn_like(expected)
    (y.transpose(0, 1)[:, mask] * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad.transpose(0, 1)[:, mask], torch.cat([s.grad for s in sequences], 1))
    assert not x.grad.transpose(0, 1)[:, ~mask].any()
    for own, other in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    for own, other in zip(layer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other)
    torch.testing.assert_close(
        layer.eval()(x, mask=mask).transpose(0, 1)[:, mask], without_padding(twin.eval(), sequences)
    )


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["batch_norm", "batch_norm_scratch", "local_batch_norm"])
def test_a_batch_of_padding_alone_is_not_counted(kind, momentum):
    x, mask, _ = padded()
    layer = normzoo.create(kind, 4, momentum=momentum).double()
    layer(x, mask=mask)
    before = copy.deepcopy(layer.state_dict())
    layer(x, mask=torch.zeros_like(mask))
    torch.testing.assert_close(layer.state_dict(), before)


def test_instance_norm_averages_valid_instances():
    x, mask, sequences = padded()
    layer = build("instance_norm", track_running_stats=True)
    mask[2] = False
    layer(x, mask=mask)
    expected = 0.9 + 0.1 * (sequences[0].var(1) + sequences[1].var(1)) / 2
    torch.testing.assert_close(layer.running_var, expected)
    before = layer.running_var.clone()
    assert not layer(x, mask=torch.zeros_like(mask)).any()
    torch.testing.assert_close(layer.running_var, before)


@pytest.mark.parametrize("kind", ["layer_norm_channel", "rms_norm"])
def test_tokens_have_the_channels_last(kind):
    x, mask, sequences = padded()
    layer = build(kind, channel_dim=-1)
    y = layer(x.transpose(1, 2), mask=mask)
    torch.testing.assert_close(y[mask], torch.cat([layer(s.T) for s in sequences]))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_full_mask_changes_nothing(kind):
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    layer = build(kind)
    torch.testing.assert_close(layer(x, mask=torch.ones(1, 3, 5, dtype=torch.bool)), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_other_masks_are_refused(kind):
    layer, x = build(kind), torch.randn(2, 4, 5, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=r"a mask of booleans, True where valid; got torch\.float32"):
        layer(x, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"takes a mask of shape \(2, 5\) for an input of shape \(2, 4, 5\)"):
        layer(x, mask=torch.ones(2, 4, 5, dtype=torch.bool))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", ["batch_norm", "group_norm", "rms_norm"])
def test_masks_compile(kind):
    x, mask, _ = padded()
    layer = build(kind)
    expected = copy.deepcopy(layer)(x, mask=mask)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x, mask=mask), expected)


@pytest.mark.parametrize("kind", ["layer_norm_channel", "rms_norm"])
def test_several_trailing_dimensions_take_no_mask(kind):
    with pytest.raises(ValueError, match="takes no mask: it normalizes positions together"):
        normzoo.create(kind, (4, 5))(torch.randn(2, 4, 5), mask=torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["layer_norm_channel", "rms_norm"])
def test_one_trailing_dimension_is_the_channels(kind):
    x, mask = torch.randn(2, 4, 5), torch.tensor([[True, True, False, False], [True] * 4])
    expected = normzoo.create(kind, 5, channel_dim=-1)(x, mask=mask)
    torch.testing.assert_close(normzoo.create(kind, (5,))(x, mask=mask), expected)
