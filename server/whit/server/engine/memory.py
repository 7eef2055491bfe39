"""How much memory this process may still take, and what the engine does before it would be killed for taking it.

A governor looks every second. With little room left, what is free goes back to the system and micro-batches get smaller;
with hardly any, what is not short and interactive is refused, or held back if it can wait, until there is room again. Its
changes are logged once each.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from whit.contract.errors import Problem
from whit.server.engine import cgroup, problems

_logger = logging.getLogger(__name__)

_MIB = 1 << 20
_INTERVAL_S = 1.0
_HOLD_S = 10.0  # how long patient work waits for room before it is refused too
_RETRY_AFTER_S = 5.0
_UNLIMITED = 1 << 60  # cgroup v1 writes a number of this size where there is no limit
_REGAINED = 1.3  # times the room at which a pressure began, there must be for it to end: it must not flicker


class Pressure(enum.IntEnum):
    """How short memory is. ``value`` orders them."""

    NONE = 0
    HIGH = 1  # micro-batches get smaller
    CRITICAL = 2  # and new bulk work is refused


# The room (share of the limit, bytes: the lesser counts) below which a pressure begins. A share alone would call a large
# machine short of memory that has gigabytes to spare, and bytes alone a small one that never has so many.
_ROOM = {Pressure.HIGH: (0.15, 256 * _MIB), Pressure.CRITICAL: (0.07, 128 * _MIB)}

_BUDGET_SHARE = {Pressure.NONE: 1.0, Pressure.HIGH: 0.5, Pressure.CRITICAL: 0.125}


@dataclass(frozen=True, slots=True)
class Memory:
    """A limit and what counts against it, in bytes; cached files, which the kernel gives back, do not count."""

    limit_bytes: int
    used_bytes: int

    @property
    def room_bytes(self) -> int:
        """What may still be taken, at least 0."""
        return max(0, self.limit_bytes - self.used_bytes)


def read_memory(proc: Path = Path("/proc/self"), meminfo: Path = Path("/proc/meminfo")) -> Memory | None:
    """The limit with the least room: of the process's cgroup, those above it, and the machine. None if none is known."""
    found = [_read_v2(path) if version == 2 else _read_v1(path) for version, path in cgroup.directories(proc, "memory")]
    found.append(_read_machine(meminfo))
    return min((memory for memory in found if memory is not None), key=lambda memory: memory.room_bytes, default=None)


def _read_v2(directory: Path) -> Memory | None:
    limits = [_number(directory / name) for name in ("memory.max", "memory.high")]
    return _memory([limit for limit in limits if limit], directory / "memory.current", directory, "inactive_file")


def _read_v1(directory: Path) -> Memory | None:
    limit = _number(directory / "memory.limit_in_bytes")
    limits = [limit] if limit and limit < _UNLIMITED else []
    return _memory(limits, directory / "memory.usage_in_bytes", directory, "total_inactive_file")


def _memory(limits: list[int], usage: Path, directory: Path, reclaimable: str) -> Memory | None:
    used = _number(usage)
    if not limits or used is None:
        return None
    cached = next((value for name, value in _pairs(directory / "memory.stat") if name == reclaimable), 0)
    return Memory(min(limits), max(0, used - cached))


def _read_machine(meminfo: Path) -> Memory | None:
    sizes = {name.rstrip(":"): 1024 * value for name, value in _pairs(meminfo)}
    if "MemTotal" not in sizes or "MemAvailable" not in sizes:
        return None
    return Memory(sizes["MemTotal"], sizes["MemTotal"] - sizes["MemAvailable"])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    """Names and numbers of a file with one of each a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, number, *_ = [*line.split(), "", ""]
        if number.isdigit():
            yield name, int(number)


class MemoryGovernor:
    """Watches memory on the event loop, and says what may run.

    Attributes:
        memory: as last read; None before the first look, and where nothing can be read.
        pressure: what follows from it.
        refused_count: calls and batches refused for it.
    """

    def __init__(
        self, read: Callable[[], Memory | None] | None = None, release: Callable[[], None] | None = None
    ) -> None:
        """Makes a governor of what ``read`` gives and ``release`` frees; None: ``read_memory`` and ``release_free``, for this process."""
        self.memory: Memory | None = None
        self.pressure = Pressure.NONE
        self.refused_count = 0
        self._read = read or read_memory
        self._release = release or release_free
        self._relief = asyncio.Event()
        self._relief.set()

    @contextlib.asynccontextmanager
    async def watching(self, on_change: Callable[[Pressure], object]) -> AsyncIterator[None]:
        """Looks every second while the block runs; ``on_change`` is told of every new pressure."""
        watch = asyncio.create_task(self._watch(on_change))
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    def look(self) -> bool:
        """Reads memory once; True if the pressure is another one now."""
        self.memory = self._read()
        before, self.pressure = self.pressure, _pressure(self.memory, self.pressure)
        if self.pressure is Pressure.CRITICAL:
            self._relief.clear()
        else:
            self._relief.set()
        if self.pressure is not before:
            self._log()
        return self.pressure is not before

    def budget(self, token_count: int) -> int:
        """Tokens of a micro-batch, where ``token_count`` are allowed if memory is no matter."""
        return max(1, int(token_count * _BUDGET_SHARE[self.pressure]))

    async def refusal(self, *, wait: bool) -> Problem | None:
        """Why work that takes memory cannot be begun now, or None; with ``wait`` it is held back for a while first."""
        if wait and not self._relief.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._relief.wait(), _HOLD_S)
        if self._relief.is_set() or self.memory is None:
            return None
        self.refused_count += 1
        return problems.memory_low(self.memory.used_bytes, self.memory.limit_bytes, _RETRY_AFTER_S)

    async def _watch(self, on_change: Callable[[Pressure], object]) -> None:
        while True:
            if self.look():
                on_change(self.pressure)
            if self.pressure is not Pressure.NONE:
                await asyncio.to_thread(self._release)
            await asyncio.sleep(_INTERVAL_S)

    def _log(self) -> None:
        assert self.memory is not None
        fields = {"used_bytes": self.memory.used_bytes, "limit_bytes": self.memory.limit_bytes}
        if self.pressure is Pressure.NONE:
            _logger.info("there is memory again", extra={"fields": fields})
            return
        does = {Pressure.HIGH: "micro-batches get smaller", Pressure.CRITICAL: "new bulk work is refused"}
        _logger.warning("memory is short: %s until there is more", does[self.pressure], extra={"fields": fields})


def release_free() -> None:
    """Has the C library give back what it keeps of memory that was freed: in one run 80 of 300 MB after large streams."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep little
    if trim is not None:
        trim(0)


def _pressure(memory: Memory | None, before: Pressure) -> Pressure:
    if memory is None:
        return Pressure.NONE
    for pressure in (Pressure.CRITICAL, Pressure.HIGH):
        share, most_bytes = _ROOM[pressure]
        needed = min(share * memory.limit_bytes, most_bytes) * (_REGAINED if before >= pressure else 1.0)
        if memory.room_bytes < needed:
            return pressure
    return Pressure.NONE
