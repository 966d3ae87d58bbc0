"""What a sweep costs beside its training, for those who develop normzoo: `python -m scripts.bench_sweep`."""
