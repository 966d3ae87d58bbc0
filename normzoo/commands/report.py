"""`normzoo report`: write tables, figure and verdicts from the results in a folder."""

import argparse
from pathlib import Path

from normzoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder of results."""
    parser.add_argument("folder", type=Path, help="the folder of a sweep, finished or not")


def run(arguments: argparse.Namespace) -> None:
    """Write the report on a folder, and judge the claims it has cells for.

    Raises:
        UserError: If a package is missing, or the folder has no results.
    """
    try:
        from normzoo.claims import judge_claims
        from normzoo.report import report
        from normzoo.sweep.claims_manifest import of_claims_alone
    except ModuleNotFoundError as error:
        raise UserError(f"normzoo report needs {error.name}: pip install 'normzoo[sweep]'") from error

    if not of_claims_alone(arguments.folder):
        print(report(arguments.folder).text)
    judged = judge_claims(arguments.folder)
    if judged:
        print(judged.text)
