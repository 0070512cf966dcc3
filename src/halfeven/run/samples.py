"""Several samples at once, results in order: calibration keeps all cores busy without one waiting for another.

Two samples are in flight if what is watched of them is small, else one, so memory is bounded whatever the number of
cores; each is run by its share of the cores. On two cores no operator of a small network is split, which costs less
than handing its pieces around.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 2
SMALL = 32 << 20  # bytes


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flights(shapes: Iterable[Sequence[int]]) -> int:
    """How many samples to run at once, when float32 tensors of these shapes are watched."""
    return IN_FLIGHT if cores() > 1 and 4 * sum(map(prod, shapes)) <= SMALL else 1


def in_order(work: Callable[[T], R], items: Iterable[T], flights: int) -> Iterator[R]:
    """Yield `work(item)` for each item, in order; `flights` at once.

    NumPy's matrix products meanwhile use one thread: its others would go on spinning when they have nothing to do.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(flights, "halfeven-sample") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > flights:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
