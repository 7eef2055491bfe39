"""What is in progress: counted, and waited for until nothing is."""

from __future__ import annotations

import asyncio


class InFlight:
    """Counts the blocks that are in it as a context manager, any number at a time. Used on one event loop only.

    Attributes:
        count: blocks in progress.
    """

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[asyncio.Future[None]] = []

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self._waiting and not self.count:
            for waiting in self._waiting:
                if not waiting.done():  # cancelled
                    waiting.set_result(None)
            self._waiting.clear()

    async def none(self) -> None:
        """Waits until nothing is in progress."""
        while self.count:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
