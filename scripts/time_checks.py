"""Time the checks of norms, on one thread: all of them and with fast=True, wall clock and processor seconds.

python scripts/time_checks.py batch_norm group_norm     these norms
python scripts/time_checks.py --fast                    every norm that needs no argument, fast=True alone
"""

import contextlib
import inspect
import sys
import time
import warnings
from collections.abc import Callable
from unittest import SkipTest

import torch

import normzoo
from normzoo.testing import Check, checks


def seconds(chosen: list[Check]) -> str:
    """Time these checks; a failure takes its time too."""
    wall, processor = time.perf_counter(), time.process_time()
    for check in chosen:
        with contextlib.suppress(SkipTest, AssertionError):
            check()
    return f"{time.perf_counter() - wall:6.2f} s, {time.process_time() - processor:6.2f} s of the processor"


def main(norms: list[str], kinds: dict[str, Callable[[str], list[Check]]]) -> None:
    """Print a line for each norm and choice of checks."""
    seconds(checks("identity"))  # torch imports dynamo, export and ONNX when first used
    for norm in norms:
        for kind, choose in kinds.items():
            print(f"{norm:28} {kind:9} {seconds(choose(norm))}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    needs = inspect.Parameter.empty
    given = [word for word in sys.argv[1:] if word != "--fast"]
    free = [name for name in normzoo.list_norms() if needs not in normzoo.info(name).arguments.values()]
    all_too = {} if "--fast" in sys.argv else {"all": checks}
    main(given or free, {"fast=True": lambda norm: checks(norm, fast=True), **all_too})
