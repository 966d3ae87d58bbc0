"""The configs of the norms alone, for the search path of another Hydra program: `pkg://normzoo.conf_norms`."""
