"""scripts/compare_surgery.py: a small model goes through every operation of the libraries that are here."""

import torch
from torch import nn

from scripts.compare_surgery import measure, table


def small() -> tuple[nn.Module, tuple[torch.Tensor]]:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model = nn.Sequential(*layers)
    x = torch.randn(2, 3, 8, 8)
    model(x)
    return model, (x,)


def test_a_small_model_is_measured() -> None:
    told = measure(small)
    ours = {name.partition("/")[0]: entry for name, entry in told.items() if name.endswith("/normzoo")}
    assert set(ours) == {"sync", "freeze", "fold", "same", "groups"}
    assert all(entry == {"changed": False, "left": 0} for entry in ours.values())
    assert told["sync/torch"] == {"changed": False, "left": 0}
    assert "| fold | torch.fx | 1 | 0 | 0 | 0 |" in table({"small": told})


def test_what_a_library_raises_or_leaves_is_counted() -> None:
    results = {"a": {"fold/x": {"error": "no"}}, "b": {"fold/x": {"changed": True, "left": 3}}}
    assert table(results).splitlines()[-1] == "| fold | x | 2 | 1 | 1 | 1 |"
