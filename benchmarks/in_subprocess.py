"""A measurement in a process of its own, because the peak of a process never falls."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def apart(act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the function returns, called in a new process, to which both travel as copies."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(act, *args, **kwargs).result()


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
