"""A vision transformer: where its norms are, against torch's own blocks, and what is refused."""

import pytest
import torch
from torch import nn

import normzoo
from normzoo import UserError
from normzoo.models.blocks import Placement
from normzoo.models.vit import Block, TokenNorm, ViT


def token_norm(dim):
    return normzoo.create("layer_norm_channel", dim)


def vit(norm=token_norm, where="all", **options):
    sizes = {"image_size": 8, "dim": 16, "depth": 2, "heads": 2, **options}
    return ViT(norm, Placement(where=where), in_channels=2, num_classes=3, **sizes)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_block_computes_what_torchs_encoder_layer_does(order):
    torch.manual_seed(0)
    block = Block(16, 2, 2, token_norm, order, qk_norm=False, dropout=0.0).double()
    theirs = nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=order == "pre"
    ).double()
    attention = next(m for m in block.attention if not isinstance(m, TokenNorm))
    mlp = next(m for m in block.mlp if not isinstance(m, TokenNorm))
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(attention.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(attention.qkv.bias)
    for ours, other in (
        (attention.out, theirs.self_attn.out_proj), (mlp[0], theirs.linear1), (mlp[2], theirs.linear2)
    ):  # fmt: skip
        other.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(block(x), theirs(x))


@pytest.mark.parametrize(
    ("options", "norms"),
    [
        ({}, 2 * 2 + 1),
        ({"norm_order": "post"}, 2 * 2),
        ({"norm_order": "sandwich"}, 4 * 2 + 1),
        ({"qk_norm": True}, 4 * 2 + 1),
        ({"where": "first"}, 2),
        ({"where": "last"}, 1),
        ({"where": "none"}, 0),
    ],
)
def test_norms_are_where_order_and_placement_put_them(options, norms):
    assert len(list(normzoo.norm_layers(vit(**options)))) == norms


def test_post_norm_tokens_are_normalized_and_sandwich_branches_are():
    model, x = vit(norm_order="post"), torch.randn(4, 2, 8, 8)
    tokens = model.blocks(model.patches(x).flatten(2).mT + model.position)
    torch.testing.assert_close(tokens.var(dim=-1, unbiased=False), torch.ones(4, 4), rtol=1e-3, atol=1e-3)
    branch = vit(norm_order="sandwich").blocks[0].attention(10 * tokens)
    torch.testing.assert_close(branch.mean(dim=-1), torch.zeros(4, 4), rtol=0, atol=1e-5)


def test_the_norm_of_queries_and_keys_bounds_the_attention():
    x, flat = torch.randn(1, 2, 8, 8), vit(qk_norm=True)
    with torch.no_grad():
        for block in flat.blocks:
            block.attention[1].qkv.weight.mul_(1e4)
    assert flat.blocks[0].attention[1].q_norm(torch.full((1, 2, 4, 8), 1e4) + torch.randn(8)).abs().max() < 3
    assert flat(x).isfinite().all()


def test_batch_statistics_average_over_samples_and_tokens():
    shapes = []
    model = vit(nn.BatchNorm1d)
    model.blocks[0].attention[0][0].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    model(torch.randn(4, 2, 8, 8))
    assert shapes == [(4, 16, 4)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"norm_order": "peri"}, "norm_order='peri' is unknown; choose one of pre, post, sandwich"),
        ({"patch": 3}, "patches of 3×3 do not divide images of 8×8"),
        ({"heads": 3}, "3 heads do not divide dim=16"),
        ({"depth": 0}, "depth must be a positive integer"),
        ({"image_size": None}, "needs the size of the images"),
        ({"dropout": 2}, "dropout=2 must be in"),
    ],
)
def test_a_wrong_option_is_refused(options, match):
    with pytest.raises(UserError, match=match):
        vit(**options)


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"set model\.image_size"):
        vit()(torch.randn(1, 2, 12, 12))
