"""The report at the end of a multirun, whichever launcher ran it."""

import sys
import traceback
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from normzoo.errors import UserError, exit_with
from normzoo.report import report


class ReportCallback(Callback):
    """Writes the report into the sweep folder and prints its table; a failed cell makes the exit code 1."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            made = report(config.hydra.sweep.dir)
        except UserError as error:
            exit_with(error)
        except Exception:
            traceback.print_exc()  # Hydra would make a warning of it, and a success of the sweep
            sys.exit(1)
        print(made.text)
        if made.failed:
            sys.exit(1)
