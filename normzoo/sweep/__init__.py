"""Plan, run, watch and resume many cells, on this machine or on another engine."""
