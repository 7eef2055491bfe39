"""What a measurement was made on."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata

import numpy as np

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


@contextlib.contextmanager
def probing(interval_s: float = 0.1) -> Iterator[list[float]]:
    """Watches how fast the machine is while the block runs: a list that fills with the CPU ms of one small fixed work.

    A virtual core becomes slower by a third for minutes, at no visible steal, when its neighbours on the host are busy; only a
    known piece of work beside the measured one tells that from a slower server. It takes one percent of a core.
    """
    # Too small for the BLAS library to spread over threads.
    matrices = np.random.default_rng(0).standard_normal((150, 48, 48)).astype(np.float32)
    found: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        while not stop.wait(interval_s):
            start = time.thread_time()
            np.matmul(matrices, matrices)
            found.append(1e3 * (time.thread_time() - start))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
