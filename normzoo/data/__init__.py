"""Data sets as LightningDataModules, each with a `conf/data/*.yaml` that names it in `_target_`."""
