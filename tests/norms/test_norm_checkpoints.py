"""Checkpoints of other libraries' layers: those that `normzoo show` names load, and give what they gave there."""

import copy
import importlib
import io

import pytest
import torch
from torch import nn

import normzoo
from tests.norms.norm_cases import a_norm

CHANNELS = 64
BUILT = {
    "torch.nn.GroupNorm": lambda owner: owner(1, CHANNELS),
    "timm.layers.GroupNorm": lambda owner: owner(CHANNELS, 1),
    **dict.fromkeys(
        (f"torch.nn.InstanceNorm{rank}d" for rank in (1, 2, 3)), lambda owner: owner(CHANNELS, affine=True)
    ),
    **dict.fromkeys((f"timm.layers.EvoNorm2dS{i}" for i in range(3)), lambda owner: owner(CHANNELS, groups=4)),
    "timm.layers.grn.GlobalResponseNorm": lambda owner: owner(CHANNELS, channels_last=False),
}
OPTIONS = {"group_norm": {"num_groups": 1}, "group_norm_scratch": {"num_groups": 1}}
OPTIONS |= {f"evo_norm_s{i}": {"num_groups": 4} for i in range(3)}
OF_TOKENS = ("torch.nn.LayerNorm", "timm.layers.LayerNorm", "torch.nn.RMSNorm", "timm.layers.RmsNorm")
RANKS = {"BatchNorm1d": 2, "BatchNorm3d": 5, "InstanceNorm1d": 3, "InstanceNorm3d": 5}
CASES = [(norm, peer) for norm in normzoo.list_norms() for peer in normzoo.info(norm).peers]


def trained(layer: nn.Module) -> nn.Module:
    """With other weights and buffers than it began with."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return layer.eval()


@pytest.mark.parametrize(("norm", "peer"), CASES, ids=["-".join(case) for case in CASES])
def test_a_checkpoint_of_a_peer_loads(norm, peer):
    module, _, kind = peer.rpartition(".")
    if not module.startswith("torch."):
        pytest.importorskip(module.partition(".")[0])
    owner = getattr(importlib.import_module(module), kind)
    if normzoo.info(norm).kind == "weight":
        theirs, ours, x = trained(owner(nn.Linear(8, 8))), a_norm(norm).eval(), torch.randn(3, 8)
    else:
        theirs = trained(BUILT.get(peer, lambda owner: owner(CHANNELS))(owner))
        options = {"channel_dim": -1} if peer in OF_TOKENS else OPTIONS.get(norm, {})
        if getattr(theirs, "eps", None) is not None:
            options = {**options, "eps": theirs.eps}
        ours = normzoo.create(norm, CHANNELS, **options).eval()
        shape = (3, 5, CHANNELS) if peer in OF_TOKENS else (3, CHANNELS, *[2] * (RANKS.get(kind, 4) - 2))
        x = torch.randn(shape)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True))
    if kind != "SyncBatchNorm":  # which refuses the CPU
        torch.testing.assert_close(ours.double()(x.double()), theirs.double()(x.double()))


@pytest.mark.parametrize("norm", normzoo.list_norms(state="num_batches_tracked"))
def test_a_missing_number_of_batches_is_none_yet(norm):
    layer = a_norm(norm)
    whole = copy.deepcopy(layer.state_dict())
    state = {key: value for key, value in whole.items() if not key.endswith("num_batches_tracked")}
    layer.load_state_dict(state)
    torch.testing.assert_close(dict(layer.state_dict()), dict(whole))
    nn.Sequential(a_norm(norm)).load_state_dict({f"0.{key}": value for key, value in state.items()})


@pytest.mark.parametrize("norm", normzoo.list_norms(state="num_batches_tracked"))
def test_a_state_of_another_part_of_the_model_leaves_the_number_of_batches(norm):
    model = nn.Sequential(nn.Linear(2, 2), a_norm(norm))
    model[1].num_batches_tracked.fill_(7)
    model.load_state_dict(model[0].state_dict(prefix="0."), strict=False)
    assert (model[1].num_batches_tracked == 7).all()


def test_another_missing_entry_is_still_an_error():
    state = a_norm("evo_norm_b0").state_dict()
    del state["running_var"]
    with pytest.raises(RuntimeError, match="running_var"):
        a_norm("evo_norm_b0").load_state_dict(state)
