"""Compile norms with torch.compile, ahead of time and in parallel, into torch's on-disk cache."""

import dataclasses
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from normzoo.bench.cases import Case
from normzoo.bench.measure import Step

MAX_PROCESSES = 8  # each holds torch and a compiler in memory


def compiled(step: Step) -> Step:
    """Return the step with its layer compiled as one full graph; compilation happens on the first call."""
    torch._dynamo.reset()  # earlier compilations count against a limit
    return dataclasses.replace(step, layer=torch.compile(step.layer, fullgraph=True))


def compile_ahead(cases: Sequence[Case], threads: int, processes: int | None = None) -> Iterator[str]:
    """Compile all cases in parallel, and yield the title of each as it finishes.

    Compiling takes far longer than measuring, and timings taken while other cores compile are useless. torch finds the
    compiled code on disk again, also after an interrupted run.

    Args:
        cases: What to compile; a case that fails to compile is reported when it is measured.
        threads: Threads that the compiled code uses.
        processes: Number of worker processes; None for one per core, up to eight.
    """
    processes = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
    context = multiprocessing.get_context("spawn")  # torch with its threads does not survive a fork
    with ProcessPoolExecutor(processes, context) as pool:
        titles = {pool.submit(_compile, case, threads): case.title for case in cases}
        for done in as_completed(titles):
            yield titles[done]


def _compile(case: Case, threads: int) -> None:
    warnings.simplefilter("ignore")  # the measurement shows the compiler's warnings
    torch.set_num_threads(threads)  # the generated code depends on it
    x = case.input()
    step = compiled(case.step(x))
    step(torch.randn_like(x))
