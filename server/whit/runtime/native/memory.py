"""Memory that the C code reads: arrays copied to the start of cache lines, and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64  # bytes of a cache line


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """uint8 [size] that begins at a cache line."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


class Memory:
    """Arrays that live as long as this object."""

    def __init__(self) -> None:
        self._held: list[NDArray[np.uint8]] = []
        self._places: dict[Hashable, Sequence[int]] = {}

    def hold(self, array: NDArray[Any]) -> int:
        """Address of a copy of the array."""
        memory = aligned_memory(array.nbytes)
        memory.view(array.dtype).reshape(array.shape)[...] = array
        self._held.append(memory)
        return memory.ctypes.data

    def hold_once(self, key: Hashable, make: Callable[[], Iterable[NDArray[Any]]]) -> Sequence[int]:
        """Addresses of what ``make`` gives; it is asked once a key: a layer that is run twice is held once."""
        if key not in self._places:
            self._places[key] = [self.hold(array) for array in make()]
        return self._places[key]
