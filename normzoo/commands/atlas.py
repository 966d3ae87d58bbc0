"""`normzoo atlas`: write every norm on one page, with an experiment to play with."""

import argparse
import json
from pathlib import Path

from normzoo import atlas
from normzoo.atlas.scores import read_scores
from normzoo.commands.show import warnings_on_a_line
from normzoo.errors import UserError
from normzoo.files import write_atomic
from normzoo.registry import info, list_norms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file to write, and where the scores come from."""
    parser.add_argument("--out", type=Path, default=Path("atlas.html"), metavar="FILE", help="default: atlas.html")
    parser.add_argument(
        "--sweep", type=Path, metavar="FOLDER", help="show the errors of this sweep instead of those that ship"
    )
    parser.add_argument("--save-scores", type=Path, metavar="FILE", help="write the errors of --sweep to a JSON file")


def run(arguments: argparse.Namespace) -> None:
    """Write the page, and print its name."""
    if arguments.save_scores and not arguments.sweep:
        raise UserError("--save-scores needs the folder of a sweep: --sweep FOLDER")
    scores = read_scores(arguments.sweep) if arguments.sweep else None
    if arguments.save_scores:
        print(write_atomic(arguments.save_scores, json.dumps(scores, indent=1) + "\n"))
    with warnings_on_a_line():
        norms = [info(name) for name in list_norms()]
    atlas.write(arguments.out, norms, scores)
