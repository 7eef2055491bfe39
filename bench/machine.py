"""What a measurement was made on."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from whit.runtime.machine import cpu_name, instruction_sets

_PACKAGES = ("whit", "numpy", "onnxruntime", "tokenizers", "grpcio", "usearch")


def describe() -> dict[str, object]:
    """Processor, cores, instruction sets, versions, date."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": sorted(instruction_sets()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


def bind(cores: Collection[int]) -> None:
    """Has this process, and those that it starts from now on, run on these cores only."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextlib.contextmanager
def probing(work: Callable[[], object], interval_s: float = 0.4) -> Iterator[list[float]]:
    """Watches how fast the machine is while the block runs: a list that fills with the CPU ms of a known piece of work.

    Where several machines share a host, all large micro-batches may take 1.45 times as long for seconds or minutes, at no
    steal, while small products, sums over memory and plain Python take what they took before. So the work must be of the kind
    that is measured; beside it, it tells a slower machine from a slower server.
    """
    found: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        while not stop.wait(interval_s):
            start = time.thread_time()
            work()
            found.append(1e3 * (time.thread_time() - start))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
