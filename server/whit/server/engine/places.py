"""Where the workers' threads run: each on a core of its own, where there is one for each (ADR 21)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterator


class Place:
    """A core for a worker's threads, or none: then the system puts them where it likes, as everywhere but on Linux."""

    def __init__(self, core: int | None = None, cores: Collection[int] = ()) -> None:
        """``core``: one of ``cores``, which are all that this process may use; None for none."""
        self.core = core
        self._cores = cores

    def __repr__(self) -> str:
        return f"<Place: {'any core' if self.core is None else f'core {self.core}'}>"

    def take(self) -> None:
        """Keeps the calling thread, and those that it makes, on the core."""
        if self.core is not None:
            _keep_on({self.core})

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Leaves the calling thread to the system for the block: threads that it makes there are to be on other cores."""
        if self.core is not None:
            _keep_on(self._cores)
        try:
            yield
        finally:
            self.take()


def places(count: int) -> list[Place]:
    """For so many workers: a core for each if there are as many, or no place in particular.

    With fewer workers than cores it is the system that knows which are free; other processes may have taken the same ones.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [Place(core, cores) for core in cores] if len(cores) == count > 1 else [Place() for _ in range(count)]


def _keep_on(cores: Collection[int]) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # the core was taken from this process since, or a sandbox forbids the call
            os.sched_setaffinity(0, cores)
