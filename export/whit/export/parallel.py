"""Work on all processor cores, in threads: what takes the time here, onnxruntime and numpy, gives the interpreter's lock away."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def core_count() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """What ``function`` gives for each item, in the order of the items.

    As many are worked on at a time as there are cores, and no more wait to be taken: results may be large.
    """
    with ThreadPoolExecutor(core_count()) as executor:
        pending: deque[Future[_Result]] = deque()
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > core_count():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Each of numpy's matrix products takes one thread while the block runs: ``side_by_side`` shares out the cores.

    Threads that share a product also add its terms in an order that depends on their number.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
