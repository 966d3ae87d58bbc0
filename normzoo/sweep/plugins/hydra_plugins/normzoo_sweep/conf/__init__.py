"""Our presets of Hydra's launchers; Hydra takes a folder of configs for one only if it is a package."""
