"""What may be worked on at a time: calls, streams and the bytes of their requests. Used on the event loop only."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from whit.contract.errors import Problem, Reason
from whit.server.errors import ServiceError
from whit.server.inflight import InFlight

_RETRY_AFTER_S = 0.5


class Places(InFlight):
    """``InFlight`` for so many blocks at a time: more are refused, never waited for.

    Raises:
        ServiceError: QUEUE_FULL, there are as many; on entering.
    """

    __slots__ = ("_limit", "_setting", "_what")

    def __init__(self, limit: int, setting: str, what: str) -> None:
        super().__init__()
        self._limit = limit
        self._setting = setting
        self._what = what

    def __enter__(self) -> None:
        if self.count >= self._limit:
            raise _overload(
                f"{self.count} {self._what} are open, the most this server allows ({self._setting})", self._setting
            )
        self.count += 1


class ByteBudget:
    """Bytes of requests being worked on, and of answers that the client of a stream has not taken yet.

    Unary calls that do not fit are refused; streams wait, first come first served.
    The first stream that waits has its room kept free, so that unary calls cannot starve it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.used_bytes = 0
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def hold(self, byte_count: int) -> None:
        """Takes so many bytes; ``release`` gives them back.

        Raises:
            ServiceError: QUEUE_FULL, they do not fit now.
        """
        reserved = self._waiting[0][0] if self._waiting else 0
        if self.used_bytes and self.used_bytes + reserved + byte_count > self._limit_bytes:
            raise _overload(
                f"requests and answers of {self.used_bytes} bytes are being worked on, this one has {byte_count}, together at most "
                f"{self._limit_bytes} (inflight_byte_count)",
                "inflight_byte_count",
            )
        self.used_bytes += byte_count

    async def take(self, byte_count: int) -> None:
        """Waits until so many bytes fit, and takes them; ``release`` gives them back."""
        if not self._waiting and self._fits(byte_count):
            self.used_bytes += byte_count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (byte_count, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in just before: nobody else will give this back
                self.release(byte_count)
            else:
                with suppress(ValueError):  # passed over already
                    self._waiting.remove(entry)
                self._let_in()
            raise

    def release(self, byte_count: int) -> None:
        """Gives bytes back."""
        self.used_bytes -= byte_count
        self._let_in()

    def add(self, byte_count: int) -> None:
        """Takes bytes that are there already, whether they fit or not; ``release`` gives them back."""
        self.used_bytes += byte_count

    def _fits(self, byte_count: int) -> bool:
        return self.used_bytes == 0 or self.used_bytes + byte_count <= self._limit_bytes

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            byte_count, turn = self._waiting.popleft()
            if not turn.done():
                self.used_bytes += byte_count
                turn.set_result(None)


def _overload(state: str, setting: str) -> ServiceError:
    return ServiceError(
        Problem(
            Reason.QUEUE_FULL,
            f"the server is busy: {state}; send this again after {_RETRY_AFTER_S} s",
            metadata={"setting": setting},
            retry_after_s=_RETRY_AFTER_S,
        )
    )
