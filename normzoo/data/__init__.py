"""Data sets as LightningDataModules: one file and one `conf/data/*.yaml` each, found by their `_target_`."""
