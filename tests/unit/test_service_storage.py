"""Writes of a collection: one at a time and in order, even where their caller has left."""

import asyncio
import threading
from typing import Any

from whit.server.service.storage import Storage


class NoStore:
    """Collections that nobody asks for."""

    def close(self) -> None:
        pass


def test_a_write_whose_caller_has_left_is_finished_before_the_next_begins() -> None:
    begun, may_end = threading.Event(), threading.Event()
    written: list[str] = []

    def slow() -> None:
        begun.set()
        assert may_end.wait(10)
        written.append("abandoned")

    async def scenario() -> None:
        store: Any = NoStore()
        storage = Storage(store, reader_count=1)
        abandoned = asyncio.create_task(storage.write("c", slow))
        await asyncio.to_thread(begun.wait, 10)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        later = asyncio.create_task(storage.write("c", written.append, "acknowledged"))
        await storage.write("another", written.append, "of another collection")
        assert written == ["of another collection"]
        may_end.set()
        await later
        assert written == ["of another collection", "abandoned", "acknowledged"]
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_write_that_fails_lets_the_next_one_in() -> None:
    written: list[str] = []

    def broken() -> None:
        raise OSError("disk full")

    async def scenario() -> None:
        store: Any = NoStore()
        storage = Storage(store, reader_count=1)
        outcomes = await asyncio.gather(
            storage.write("c", broken), storage.write("c", written.append, "next"), return_exceptions=True
        )
        assert isinstance(outcomes[0], OSError)
        assert written == ["next"]
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), 30))
