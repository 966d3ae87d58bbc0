"""Models with a fault, and healthy twins of them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import normzoo
from normzoo import create
from tests.surgery.strangers import FlaxBatchNorm, T5LayerNorm

ROWS, MAPS, TOKENS = torch.randn(4, 6), torch.randn(4, 3, 8, 8), torch.randn(2, 5, 6)
SGD = partial(torch.optim.SGD, lr=0.1)
bn, bn2, gn = partial(nn.BatchNorm1d, 6), partial(nn.BatchNorm2d, 8), partial(nn.GroupNorm, 2, 8)


def fault(check, faulty, healthy, sample=ROWS, layer="1", **options):
    """State a fault of `layer`: each builds a model, or a model and further options."""
    return check, layer, faulty, healthy, sample, options


class Calls(nn.Module):
    """Call `forward(self)` given at construction, with layers as attributes."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def rows(norm, **linear):
    return nn.Sequential(nn.Linear(6, 6, **{"bias": False, **linear}), norm)


def maps(norm, *after, size=3, **conv):
    return nn.Sequential(nn.Conv2d(3, 8, size, **{"bias": False, **conv}), norm, *after)


def with_attribute(layer, **values):
    for name, value in values.items():
        setattr(layer, name, value)
    return layer


def weight_of_zeros(*, frozen):
    model = maps(nn.BatchNorm2d(8))
    nn.init.zeros_(model[1].weight)
    return normzoo.freeze(model) if frozen else model


def recurrent(*norms):
    def run(self, x):
        h = torch.zeros_like(x)
        for step in range(3):
            h = torch.tanh(self.norms[step % len(self.norms)](self.cell(x + h)))
        return h

    return Calls(run, cell=nn.Linear(6, 6, bias=False), norms=nn.ModuleList(norms))


def skipping(norm, *, training_only):
    return Calls(lambda self, x: x if self.training or not training_only else self.norm(x), norm=norm)


def always(norm):
    return Calls(lambda self, x: self.norm(x), norm=norm)


def recomputing(norm, reentrant):
    return Calls(
        lambda self, x: checkpoint(self.inner, self.first(x), use_reentrant=reentrant),
        first=nn.Linear(6, 6), inner=rows(norm),
    )  # fmt: skip


def keeping_evaluation():
    class Kept(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].training = False
            return self

    return Kept(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6))


def transformer(norm=None):
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    if norm is not None:
        layer.norm1, layer.norm2 = norm(), norm()
    return layer


class Disguised(T5LayerNorm):
    def __init__(self):
        super().__init__(6)
        self.eps, self.bias = 1e-5, nn.Parameter(torch.zeros(6))


def with_hook_on_out_proj(*, normed):
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    if normed:
        nn.utils.weight_norm(attention.out_proj)
    return Calls(lambda self, x: self.attention(x, x, x)[0], attention=attention)


def timm(name, *args, **options):
    return getattr(pytest.importorskip("timm.layers"), name)(*args, **options)


def replaced_after_the_optimizer():
    model = maps(nn.BatchNorm2d(8))
    optimizer = SGD(model.parameters())
    model[1] = nn.GroupNorm(2, 8)
    return model, {"optimizer": optimizer}


def converted_with_the_optimizer():
    model = maps(nn.BatchNorm2d(8))
    optimizer = SGD(model.parameters())
    normzoo.convert(model, "group_norm", optimizer=optimizer)
    return model, {"optimizer": optimizer}


def decayed(*, apart):
    model = rows(nn.BatchNorm1d(6))
    groups = normzoo.no_weight_decay_groups(model, 0.1) if apart else model.parameters()
    return model, {"optimizer": SGD(groups, weight_decay=0.1)}


CASES = [
    fault("one_value", lambda: (rows(bn()), {"batch_size_per_device": 1}), lambda: rows(bn())),
    fault("one_value", lambda: maps(nn.InstanceNorm2d(8), size=8), lambda: maps(nn.InstanceNorm2d(8)), MAPS),
    fault(
        "one_value", lambda: maps(create("instance_norm", 8), size=8), lambda: maps(create("instance_norm", 8)), MAPS
    ),
    fault("one_value", lambda: maps(nn.GroupNorm(8, 8), size=8), lambda: maps(gn(), size=8), MAPS),
    fault(
        "one_value",
        lambda: (rows(create("decorrelated_batch_norm", 6)), {"batch_size_per_device": 2}),
        lambda: rows(create("decorrelated_batch_norm", 6)),
        torch.randn(16, 6),
    ),
    fault("few_values", lambda: rows(bn()), lambda: rows(nn.LayerNorm(6)), batch_size_per_device=2),
    fault("few_values", lambda: maps(FlaxBatchNorm(8)), lambda: maps(gn()), MAPS, batch_size_per_device=2),
    fault(
        "few_values",
        lambda: rows(create("ghost_batch_norm", 6, group_size=2)),
        lambda: rows(create("ghost_batch_norm", 6, group_size=16)),
    ),
    fault(
        "local_batch",
        lambda: rows(bn()),
        lambda: rows(create("sync_batch_norm", 6)),
        batch_size_per_device=4,
        devices=8,
    ),
    fault("last_batch", lambda: rows(bn()), lambda: (rows(bn()), {"drop_last": True}), train_size=33),
    fault(
        "last_batch",
        lambda: (rows(bn()), {"train_size": 130, "devices": 2}),
        lambda: (rows(bn()), {"train_size": 128, "devices": 2}),
    ),
    fault("indivisible", lambda: maps(with_attribute(gn(), num_groups=3)), lambda: maps(gn()), MAPS),
    fault(
        "indivisible",
        lambda: maps(create("ghost_batch_norm", 8, group_size=12)),
        lambda: maps(create("ghost_batch_norm", 8, group_size=16)),
        MAPS,
    ),
    fault(
        "indivisible",
        lambda: maps(create("split_batch_norm", 8, num_splits=3)),
        lambda: maps(create("split_batch_norm", 8, num_splits=2)),
        MAPS,
    ),
    fault("accumulation", lambda: rows(bn()), lambda: rows(nn.LayerNorm(6)), accumulate_grad_batches=4),
    fault("repeated", lambda: recurrent(bn()), lambda: recurrent(*(bn() for _ in range(3))), layer="norms.0"),
    fault("repeated", lambda: recurrent(bn()), lambda: recurrent(nn.LayerNorm(6)), layer="norms.0"),
    fault(
        "skipped",
        lambda: skipping(nn.SyncBatchNorm(6), training_only=True),
        lambda: always(nn.SyncBatchNorm(6)),
        layer="norm",
    ),
    fault(
        "skipped",
        lambda: skipping(create("sync_batch_norm", 6), training_only=True),
        lambda: skipping(bn(), training_only=True),
        layer="norm",
    ),
    fault("swallowed", lambda: maps(bn2()), lambda: maps(gn()), MAPS, norm_layer="GN"),
    fault("swallowed", lambda: maps(create("group_norm", 8), bn2()), lambda: maps(gn(), bn2()), MAPS, layer="2"),
    fault("useless_bias", lambda: maps(bn2(), bias=True), lambda: maps(bn2()), MAPS, layer="0"),
    fault("useless_bias", lambda: maps(FlaxBatchNorm(8), bias=True), lambda: maps(gn(), bias=True), MAPS, layer="0"),
    fault(
        "useless_bias",
        lambda: maps(create("batch_renorm", 8), bias=True),
        lambda: maps(create("power_norm", 8), bias=True),
        MAPS,
        layer="0",
    ),
    fault(
        "useless_bias",
        lambda: maps(nn.InstanceNorm2d(8), bias=True),
        lambda: maps(nn.ReLU(), bn2(), bias=True),
        MAPS,
        layer="0",
    ),
    fault(
        "double_activation",
        lambda: maps(create("filter_response_norm", 8), nn.ReLU()),
        lambda: maps(create("filter_response_norm", 8)),
        MAPS,
    ),
    fault(
        "double_activation",
        lambda: Calls(lambda self, x: F.relu(self.norm(x)), norm=create("evo_norm_s0", 3)),
        lambda: Calls(lambda self, x: F.relu(self.norm(x)), norm=nn.BatchNorm2d(3)),
        MAPS,
        layer="norm",
    ),
    fault(
        "double_activation",
        lambda: maps(timm("FilterResponseNormTlu2d", 8), nn.ReLU(inplace=True)),
        lambda: maps(timm("FilterResponseNormTlu2d", 8, apply_act=False), nn.ReLU(inplace=True)),
        MAPS,
    ),
    fault(
        "double_activation",
        lambda: maps(timm("EvoNorm2dS0", 8, groups=2), nn.SiLU()),
        lambda: maps(timm("EvoNorm2dS0", 8, groups=2)),
        MAPS,
    ),
    fault(
        "double_activation",
        lambda: maps(timm("BatchNormAct2d", 8), nn.ReLU()),
        lambda: maps(timm("BatchNormAct2d", 8, apply_act=False), nn.ReLU()),
        MAPS,
    ),
    fault("dead", lambda: weight_of_zeros(frozen=True), lambda: weight_of_zeros(frozen=False), MAPS),
    fault("orphans", replaced_after_the_optimizer, converted_with_the_optimizer, MAPS),
    fault("decayed", lambda: decayed(apart=False), lambda: decayed(apart=True)),
    fault("half_precision", lambda: maps(bn2()).bfloat16(), lambda: maps(gn()).bfloat16(), MAPS.bfloat16()),
    fault("not_updated", lambda: rows(nn.BatchNorm1d(6, momentum=0.0)), lambda: rows(bn())),
    fault("not_updated", lambda: rows(bn()).eval(), lambda: rows(bn())),
    fault(
        "not_updated",
        lambda: Calls(lambda self, x: self.norm(x), norm=bn(), unused=bn()),
        lambda: always(bn()),
        layer="unused",
    ),
    fault("not_updated", keeping_evaluation, lambda: normzoo.freeze(rows(bn()))),
    fault(
        "checkpointed",
        lambda: recomputing(bn(), False),
        lambda: recomputing(create("batch_norm", 6), False),
        layer="inner.1",
    ),
    fault(
        "checkpointed",
        lambda: recomputing(bn(), True),
        lambda: recomputing(create("batch_norm", 6), True),
        layer="inner.1",
    ),
    fault("erased", lambda: maps(timm("BatchNormAct2d", 8)), lambda: maps(bn2()), MAPS, sync_batchnorm=True),
    fault(
        "bypassed",
        lambda: transformer(Disguised),
        lambda: transformer(lambda: create("rms_norm", 6, channel_dim=-1)),
        TOKENS,
        layer="norm1",
    ),
    fault("bypassed", lambda: transformer(Disguised), transformer, TOKENS, layer="norm1"),
    fault(
        "bypassed",
        lambda: with_hook_on_out_proj(normed=True),
        lambda: with_hook_on_out_proj(normed=False),
        TOKENS,
        layer="attention.out_proj",
    ),
    fault("raises", lambda: maps(nn.BatchNorm2d(9)), lambda: maps(bn2()), MAPS),
]
