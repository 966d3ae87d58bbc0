"""The report at the end of a multirun, whichever launcher ran it."""

import sys
import traceback
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from normzoo.claims import judge_claims
from normzoo.commands.broken_pipe import to_any_reader
from normzoo.errors import UserError, exit_with
from normzoo.report import report
from normzoo.resume_command import command_of, go_on
from normzoo.text import printable


class ReportCallback(Callback):
    """Writes the report into the sweep folder and prints its table; a failed cell makes the exit code 1.

    A sweep that runs a claim's cells ends with the claim's verdict and figure as well.

    Args:
        command: What runs the sweep, where it is no `normzoo train`: it runs claims alone, and the report on the sweep
            as a whole, which says little on cells of many claims, is left out.
    """

    def __init__(self, command: str | None = None) -> None:
        self.claims_only = command is not None

    def on_multirun_end(self, config: DictConfig, goes_on: bool = False, **kwargs: Any) -> None:
        """As Hydra calls it.

        Args:
            goes_on: Whether the sweep was interrupted, and its launcher says how it goes on.
        """
        if not OmegaConf.select(config, "sweep.dry_run"):
            with to_any_reader():  # also in another program than ours
                self._report(config, goes_on)

    def _report(self, config: DictConfig, goes_on: bool) -> None:
        folder = config.hydra.sweep.dir
        try:
            made = None if self.claims_only else report(folder)
            judged = judge_claims(folder)
        except UserError as error:
            exit_with(error)
        except Exception:
            sys.stderr.write(
                printable(traceback.format_exc())
            )  # Hydra would make a warning of it, and a success of the sweep
            sys.exit(1)
        parts = [part for part in (made, judged) if part is not None]
        print("\n\n".join(part.text for part in parts))
        cells = (made.failed if made else 0) + (sum(one.failed for one in judged.judged) if judged else 0)
        if cells and not goes_on:
            again = go_on(folder, command_of(config), retry="failed")
            print(printable(f"\nthis command runs again what failed:\n  {again}"))
        if any(part.failed for part in parts):
            sys.exit(1)
        if made and made.refused and not goes_on:
            exit_with(UserError("every cell was refused, for the reasons above"))
