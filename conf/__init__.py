"""The configs of normzoo, found by Hydra as `pkg://normzoo.conf`."""
