"""The seconds of a training, interrupted or not."""

from typing import Any

import pytest

from normzoo.probes import fit_time


def test_a_resumed_training_adds_to_the_time_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(fit_time.time, "perf_counter", lambda: now)
    nothing: Any = None
    first, second = fit_time.FitTime(), fit_time.FitTime()
    first.on_train_start(nothing, nothing)
    now = 103.0
    second.load_state_dict(first.state_dict())
    now = 1000.0
    second.on_train_start(nothing, nothing)
    now = 1002.0
    second.on_train_end(nothing, nothing)
    assert second.summary() == {"fit_s": 5.0}
