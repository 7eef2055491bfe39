"""A stream of grpc.aio that the server ends while a message of the client's is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from whit.client._async_transport import END, _Stream

MADE_UP = grpc.aio.AioRpcError(
    grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
)


class EndedCall:
    """A call that the server ended with ``status``, and whose reader is told what grpc.aio makes up."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self._status = status

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def code(self) -> grpc.StatusCode:
        return self._status

    async def details(self) -> str:
        return "the server's words"

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def __aiter__(self) -> AsyncIterator[Any]:
        raise MADE_UP
        yield

    def cancel(self) -> bool:
        return False


async def received(status: grpc.StatusCode) -> Any:
    stream = _Stream(lambda messages, metadata: EndedCall(status), method=None, metadata=())  # type: ignore[arg-type]
    try:
        return await stream.receive(1.0)
    finally:
        await stream.aclose()


def test_a_stream_that_ended_well_is_at_its_end() -> None:
    assert asyncio.run(received(grpc.StatusCode.OK)) is END


def test_a_stream_that_ended_badly_has_the_servers_status() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        asyncio.run(received(grpc.StatusCode.UNAVAILABLE))

    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server's words")
