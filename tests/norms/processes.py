"""Running a function in several processes that form a group, on the CPU."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, function: Callable[..., Any], world: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
        torch.save(("result", function(rank, *arguments)), folder / f"{rank}.pt")
        dist.destroy_process_group()
    except Exception:
        torch.save(("error", traceback.format_exc()), folder / f"{rank}.pt")


def in_processes(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of `world` forked processes, meeting in a file of `folder`."""
    context = mp.get_context("fork")
    processes = [context.Process(target=_run, args=(r, function, world, folder, arguments)) for r in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "some process waits for another that does not come"
    outcomes = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]
    for kind, outcome in outcomes:
        assert kind == "result", outcome
    return [outcome for _, outcome in outcomes]
