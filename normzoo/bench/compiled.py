"""Norms under torch.compile: compiled ahead in several processes, into the cache that torch keeps on disk."""

import dataclasses
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from normzoo.bench.cases import Case
from normzoo.bench.measure import Step

MOST = 8  # processes, each of which holds torch and a compiler


def compiled(step: Step) -> Step:
    """The step with its layer compiled, whole or not at all; it is compiled when it first runs."""
    torch._dynamo.reset()  # what was compiled before counts against a limit
    return dataclasses.replace(step, layer=torch.compile(step.layer, fullgraph=True))


def compile_ahead(cases: Sequence[Case], threads: int, processes: int | None = None) -> Iterator[str]:
    """Compile each case in some process; the title of each as soon as it is there.

    Compiling takes far longer than measuring, and the figures of what is measured while other cores compile are worth
    nothing. What has been compiled torch finds again on disk, also in the next run if this one is cut short.

    Args:
        cases: What is to be compiled; one that does not compile is left for its measurement to say so.
        threads: Of the code that is compiled.
        processes: How many; None for one on each core, up to eight.
    """
    processes = processes or min(os.cpu_count() or 1, MOST)
    context = multiprocessing.get_context("spawn")  # torch with its threads does not survive a fork
    with ProcessPoolExecutor(processes, context) as pool:
        titles = {pool.submit(_compile, case, threads): case.title for case in cases}
        for done in as_completed(titles):
            yield titles[done]


def _compile(case: Case, threads: int) -> None:
    warnings.simplefilter("ignore")  # of the compiler; the measurement shows them
    torch.set_num_threads(threads)  # which the code depends on
    x = case.input()
    step = compiled(case.step(x))
    step(torch.randn_like(x))
