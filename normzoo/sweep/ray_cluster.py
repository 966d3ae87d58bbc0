"""Ask a Ray cluster what it can lend to a cell: a task that asks for more waits, for ever if no node joins."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from normzoo.errors import UserError

CONNECT_S = 5.0


def nodes(init: Mapping[Any, Any] | None) -> list[dict[str, float]]:
    """List the resources of each node of the cluster, which is started or joined if that has not been done yet.

    Args:
        init: The arguments of `ray.init`.

    Raises:
        UserError: If there is no cluster at the address.
    """
    import ray

    if not ray.is_initialized():
        # Before the launcher does, which would ask an existing cluster for a size of its memory and be refused.
        options: Any = OmegaConf.to_container(OmegaConf.create(dict(init or {})), resolve=True)
        address = options.get("address") or os.environ.get("RAY_ADDRESS")
        try:
            host, colon, port = (address or "").rpartition("://")[2].partition("?")[0].rpartition(":")
            if colon and port.isdecimal():  # ask now whether anybody listens there: Ray itself tries for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
            ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:  # as Ray tells of a cluster that is not there
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"hydra.launcher.ray.init.address={address or 'null'}: {said}; start one with `ray start --head`, "
                "name the host:port of one that runs, or leave the address out for one of this machine"
            ) from error
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def may_grow(init: Mapping[Any, Any] | None) -> bool:
    """Whether the cluster is one of others, to which nodes may be added while the sweep runs."""
    address = (init or {}).get("address") or os.environ.get("RAY_ADDRESS")
    return address not in (None, "local")


def too_much(cpus: float, gpus: float, found: Sequence[Mapping[str, float]]) -> str | None:
    """Say why no node can lend a cell this many cores and GPUs; None if one can.

    Args:
        cpus: Cores that the cell asks for.
        gpus: GPUs that it asks for.
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
