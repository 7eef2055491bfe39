"""How workers tell the event loop that jobs are done."""

from __future__ import annotations

import asyncio
from collections import deque


class Completions:
    """Futures to resolve on the loop: a micro-batch completes many calls, and waking the loop is a system call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_woken = False

    def add(self, done: asyncio.Future[None]) -> None:
        """From any thread; those added before the loop comes round are resolved in one turn of it."""
        self._waiting.append(done)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._is_woken = False  # first: what is added from here on wakes the loop again
        while self._waiting:
            done = self._waiting.popleft()
            if not done.done():  # cancelled
                done.set_result(None)
