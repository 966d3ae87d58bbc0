"""Every registered norm passes the public conformance suite, with an independent formula."""

from typing import Any

import pytest

import normzoo
from normzoo.testing import checks
from tests.norms.norm_cases import NAMES, NOT_THE_DERIVATIVE, marked
from tests.norms.oracles import expected

RUNNING = ("running_mean", "running_var", "num_batches_tracked")
# Beside the defaults: keywords that change what is computed, and the facts that change with them.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in NAMES),
    ("layer_norm_channel", {"channel_dim": -1}, {}),
    ("rms_norm", {"channel_dim": -1, "affine": False}, {}),
    ("filter_response_norm", {"tlu": False}, {"includes_activation": False}),
    ("filter_response_norm", {"learned_eps": True}, {"minimum_count": 1, "ranks": (2, 3, 4, 5)}),
    ("ghost_batch_norm", {"group_size": 2}, {}),
    ("power_norm", {"channel_dim": -1}, {}),
    ("instance_norm", {"track_running_stats": True}, {"train_eval_differ": True, "state": RUNNING}),
]


def formula(name, **keywords):
    return lambda x, layer: expected(name, layer, x, **keywords)


def all_checks():
    for name, keywords, facts in CASES:
        title = "-".join([name, *(f"{key}={value}" for key, value in keywords.items())])
        norm = normzoo.factory(name, **keywords)
        reason = NOT_THE_DERIVATIVE.get(name)
        skip = {"gradcheck": reason, "gradgradcheck": reason} if reason else None
        for check in checks(norm, reference=formula(name, **keywords), skip=skip, **facts):
            yield marked(check, title)


@pytest.mark.parametrize("check", list(all_checks()))
def test_conformance(check):
    check()


@pytest.mark.gpu
@pytest.mark.parametrize("asked", ["huge_offset", "keeps_channels_last", "keeps_dtype"])
def test_kernels_of_cuda(name, asked):
    (check,) = [each for each in checks(name, device="cuda") if str(each) == asked]
    check()
