"""Write the report at the end of a multirun, with any launcher."""

import sys
import traceback
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from normzoo.commands.broken_pipe import to_any_reader
from normzoo.errors import UserError, exit_with
from normzoo.resume_command import command_of, go_on
from normzoo.text import printable


class ReportCallback(Callback):
    """Write the report into the sweep's folder and print its table; exit with 1 if a cell failed.

    A sweep with the cells of a claim ends with the claim's verdict and figure as well.

    Args:
        command: The user's command, if it is not `normzoo train`. Such a sweep runs only claims, so it gets no report
            on the sweep as a whole, which would mix cells of many claims.
    """

    def __init__(self, command: str | None = None) -> None:
        self.claims_only = command is not None

    def on_multirun_end(self, config: DictConfig, goes_on: bool = False, **kwargs: Any) -> None:
        """Write the report, unless it was a dry run.

        Args:
            config: Hydra's configuration of the sweep.
            goes_on: Whether the sweep was interrupted; its launcher prints how to resume it.
            **kwargs: Ignored.
        """
        if not OmegaConf.select(config, "sweep.dry_run"):
            with to_any_reader():  # in other programs as well
                self._report(config, goes_on)

    def _report(self, config: DictConfig, goes_on: bool) -> None:
        from normzoo.claims import judge_claims  # only now: pandas takes half a second to import
        from normzoo.report import report

        folder = config.hydra.sweep.dir
        try:
            made = None if self.claims_only else report(folder)
            judged = judge_claims(folder)
        except UserError as error:
            exit_with(error)
        except Exception:
            # Hydra would turn it into a warning, and the sweep into a success.
            sys.stderr.write(printable(traceback.format_exc()))
            sys.exit(1)
        parts = [part for part in (made, judged) if part is not None]
        print("\n\n".join(part.text for part in parts))
        cells = (made.failed if made else 0) + (sum(one.failed for one in judged.judged) if judged else 0)
        if cells and not goes_on:
            again = go_on(folder, command_of(config), retry="failed")
            print(printable(f"\nto run the failed cells again:\n  {again}"))
        if any(part.failed for part in parts):
            sys.exit(1)
        if made and made.refused and not goes_on:
            exit_with(UserError("every cell was refused, for the reasons above"))
