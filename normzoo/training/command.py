"""From a command line to Hydra; nothing heavy is imported before it is called."""

import sys
import warnings
from collections.abc import Sequence

from normzoo.errors import UserError


def call_hydra(arguments: Sequence[str]) -> None:
    """Hand the arguments of `normzoo train` to Hydra.

    Raises:
        UserError: a package that training needs is missing.
    """
    try:
        import hydra
        import lightning  # noqa: F401
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo train needs {error.name}: pip install 'normzoo[sweep]'") from error

    from normzoo.misspelt import hydra_says
    from normzoo.training.task import train

    sys.argv = [sys.argv[0], *arguments]
    # Our presets of engines bear the names of the launchers they are for, and hold to what these take.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    with hydra_says():
        hydra.main(version_base="1.3", config_path="pkg://normzoo.conf", config_name="train")(train)()
