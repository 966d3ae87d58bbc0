"""From a list of grids to one list of cells."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.normzoo_sweep import NormzooSweeper


def cells(sweeper: "NormzooSweeper", arguments: list[str]) -> list[list[str]]:
    """The overrides of every cell: the product of each grid's axes, one grid after the other, each cell once.

    Args:
        sweeper: Set up by Hydra; its `grids` are mappings from an override to its comma-separated values.
        arguments: The command line's overrides, which hold in every grid and win over it.
    """
    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    params = [f"{key}={value}" for key, value in sweeper.params.items()]
    listed: dict[tuple[str, ...], None] = {}
    chosen = tuple(f"{argument.split('=')[0]}." for argument in arguments)
    for listed_grid in sweeper.grids or [{}]:
        # The options of a group are those of what the grid had chosen there.
        grid = {key: value for key, value in listed_grid.items() if not key.startswith(chosen)}
        overrides = [*params, *(f"{key}={value}" for key, value in grid.items()), *arguments]
        for batch in sweeper.split_arguments(parser.parse_overrides(overrides), None):
            listed.update(dict.fromkeys(tuple(cell) for cell in batch))
    return [list(cell) for cell in listed]


def sweep(sweeper: "NormzooSweeper", arguments: list[str]) -> Any:
    """Launch every cell of every grid into one sweep folder."""
    assert sweeper.config is not None
    assert sweeper.launcher is not None
    folder = Path(sweeper.config.hydra.sweep.dir)
    planned = cells(sweeper, arguments)
    returns = sweeper.launcher.launch(planned, initial_job_idx=0)
    if returns:  # none of a dry run
        OmegaConf.save(sweeper.config, folder / "multirun.yaml")
    return [returns]
