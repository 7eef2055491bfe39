"""Both clients behind one face, so that one test body runs against each.

``open_client("AsyncClient", address)`` gives a client whose methods block and whose streams are plain generators, but
which is an ``AsyncClient`` in an event loop of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tests.support.server import server_thread, tiny_package
from whit.client import AsyncClient, Client

KINDS = ("Client", "AsyncClient")

MODEL = "tiny"
WINDOW = 3
ITEM_LIMIT = 16
MESSAGE_BYTES = 100_000
TEXTS = [f"text number {i} about the water and the {'long ' * (i % 7)}way" for i in range(50)]


@contextmanager
def limited_server(data: Path) -> Iterator[str]:
    """A real server with low limits, so that the client has to split; gives its address."""
    with server_thread(
        data,
        models=[tiny_package(), tiny_package("other", seed=1)],
        batch_item_count=ITEM_LIMIT,
        stream_window_count=WINDOW,
        message_byte_count=MESSAGE_BYTES,
        text_byte_count=50_000,
        metadata_byte_count=1000,
    ) as address:
        yield address


@contextmanager
def open_client(kind: str, address: str, **options: Any) -> Iterator[Client]:
    """A client of one of ``KINDS``, closed in the end."""
    if kind == "Client":
        with Client(address, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        blocking = Blocking(AsyncClient(address, **options), runner)
        yield cast("Client", blocking)
        blocking.close()


class Blocking:
    """An ``AsyncClient`` that is run to the end of each method."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self.client, self._runner = client, runner

    def __repr__(self) -> str:
        return repr(self.client).replace("AsyncClient", "Client")

    def close(self) -> None:
        self._runner.run(self.client.aclose())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            outcome = method(*args, **kwargs)
            return self._iterate(outcome) if inspect.isasyncgen(outcome) else self._runner.run(outcome)

        return call

    def _iterate(self, results: Any) -> Generator[Any, None, None]:
        async def following() -> list[Any]:
            # StopAsyncIteration cannot leave a coroutine, so the end is an empty list.
            async for result in results:
                return [result]
            return []

        try:
            while found := self._runner.run(following()):
                yield found[0]
        finally:
            self._runner.run(results.aclose())


def threads() -> set[threading.Thread]:
    """The threads of now, but for gRPC's own poller, which stays until the process ends."""
    return {thread for thread in threading.enumerate() if "_poll_wrapper" not in thread.name}


def wait_until_gone(before: set[threading.Thread], limit_s: float = 10.0) -> set[threading.Thread]:
    """The threads that are there since ``before``, waited for until there are none or ``limit_s`` has passed."""
    end = time.monotonic() + limit_s
    while (left := threads() - before) and time.monotonic() < end:
        time.sleep(0.01)
    return left
