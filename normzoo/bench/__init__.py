"""Measuring instruments: what a norm costs, as a ratio to what it would replace.

`normzoo bench layers` on the command line; `measure_layers`, `time_in_turn` and `saved_bytes` from Python.
"""

from normzoo.bench.figure import Figure
from normzoo.bench.layers import measure_layers
from normzoo.bench.measure import Step, Times, machine, saved_bytes, time_in_turn
from normzoo.bench.row import LayerRow
from normzoo.bench.targets import targets

__all__ = [
    "Figure",
    "LayerRow",
    "Step",
    "Times",
    "machine",
    "measure_layers",
    "saved_bytes",
    "targets",
    "time_in_turn",
]
