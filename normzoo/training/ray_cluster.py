"""What a Ray cluster can lend to a cell: Ray itself lets a task that asks for more wait, for ever if no node joins."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf


def nodes(init: Mapping[Any, Any] | None) -> list[dict[str, float]]:
    """The resources of each node of the cluster, which is started or joined if that has not been done yet.

    Args:
        init: The arguments of `ray.init`.
    """
    import ray

    if not ray.is_initialized():
        # Before the launcher does, which would ask an existing cluster for a size of its memory and be refused.
        options: Any = OmegaConf.to_container(OmegaConf.create(dict(init or {})), resolve=True)
        ray.init(**options)
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def may_grow(init: Mapping[Any, Any] | None) -> bool:
    """Whether it is a cluster of others, to which nodes may be added while the sweep runs."""
    address = (init or {}).get("address") or os.environ.get("RAY_ADDRESS")
    return address not in (None, "local")


def too_much(cpus: float, gpus: float, found: Sequence[Mapping[str, float]]) -> str | None:
    """Why no node can lend a cell this many cores and GPUs; None if one can.

    Args:
        found: The resources of each node.
    """
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in found):
        return None
    has = " or ".join(dict.fromkeys(_words(node.get("CPU", 0), node.get("GPU", 0)) for node in found)) or "nothing"
    return (
        f"it asks Ray for {_words(cpus, gpus)} on one node, where the cluster's nodes have {has}; lower "
        "trainer.devices, trainer.threads or data.num_workers, or let its processes share fewer cores: "
        "+hydra.launcher.ray.remote.num_cpus=N"
    )


def _words(cpus: float, gpus: float) -> str:
    cores = f"{cpus:g} core{'s' * (cpus != 1)}"
    return f"{cores} and {gpus:g} GPU{'s' * (gpus != 1)}" if gpus else cores
