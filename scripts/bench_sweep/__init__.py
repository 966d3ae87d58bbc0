"""Measure the overhead of a sweep, for developers of normzoo: `python -m scripts.bench_sweep`."""
