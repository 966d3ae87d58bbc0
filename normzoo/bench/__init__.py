"""Measure what a norm costs, relative to the layer it would replace.

Run `normzoo bench layers`, or call `measure_layers`, `time_in_turn` and `saved_bytes` from Python.
"""

from normzoo.bench.layers import measure_layers
from normzoo.bench.measure import LayerRow, Step, Times, machine, saved_bytes, time_in_turn
from normzoo.bench.measurement import Measurement
from normzoo.bench.targets import targets

__all__ = [
    "LayerRow",
    "Measurement",
    "Step",
    "Times",
    "machine",
    "measure_layers",
    "saved_bytes",
    "targets",
    "time_in_turn",
]
