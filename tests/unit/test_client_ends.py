"""What becomes of calls when a client is closed, or an event loop is left; no sockets."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from whit.client import AsyncClient, Cancelled, Client
from whit.client._methods import GET_SERVER_INFO, STREAM_EMBED
from whit.client._steps import Invoke, Open, Plan, Sleep, StreamPlan
from whit.v1 import server_pb2

NEXT_TRY = Invoke(GET_SERVER_INFO, server_pb2.GetServerInfoRequest(), None, None)
FOR_EVER_S = 3600.0


class Waiting:
    """Plans of calls that wait for their next try; ``begun`` is set once they do."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def call(self) -> Plan[None]:
        self.begun.set()
        yield Sleep(FOR_EVER_S)
        yield NEXT_TRY

    def stream(self) -> StreamPlan:
        self.begun.set()
        yield Sleep(FOR_EVER_S)
        yield Open(STREAM_EMBED)


@pytest.mark.parametrize("is_stream", [False, True])
def test_closing_a_client_ends_the_wait_for_the_next_try(is_stream: bool) -> None:
    client, plans = Client("localhost:1"), Waiting()
    closer = threading.Thread(target=lambda: (plans.begun.wait(), client.close()))
    closer.start()

    with pytest.raises(Cancelled, match="was cancelled, for this client was closed"):
        list(client._transport.stream(plans.stream(), [])) if is_stream else client._transport.run(plans.call())

    closer.join()


def test_a_client_that_is_closed_while_a_stream_begins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("localhost:1")
    method = client._transport._method

    def method_of_closed(wanted: Any) -> Any:
        found = method(wanted)
        client.close()
        return found

    monkeypatch.setattr(client._transport, "_method", method_of_closed)
    with pytest.raises(Cancelled, match="was cancelled, for this client was closed"):
        list(client._transport.stream(opening(), []))


def opening() -> StreamPlan:
    yield Open(STREAM_EMBED)


@pytest.mark.parametrize("is_stream", [False, True])
def test_closing_an_async_client_ends_the_wait_for_the_next_try(is_stream: bool) -> None:
    async def scenario() -> None:
        client, plans = AsyncClient("localhost:1"), Waiting()

        async def following() -> list[Any]:
            return [result async for result in client._transport.stream(plans.stream(), [])]

        call = asyncio.ensure_future(following() if is_stream else client._transport.run(plans.call()))
        await asyncio.to_thread(plans.begun.wait)
        await client.aclose()
        with pytest.raises(Cancelled, match="was cancelled, for this client was closed"):
            await call

    asyncio.run(scenario())


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_that_is_to_be_copied_says_what_to_do(client: type[Client], copying: Callable[[Any], Any]) -> None:
    """As where it is given to a pool of processes. A shallow copy is the same connection."""
    original = client("localhost:1")
    if copying is copy.copy:
        assert copying(original)._transport is original._transport
    else:
        with pytest.raises(
            TypeError, match=rf"an? {client.__name__} cannot be pickled or copied, .* one in each process"
        ):
            copying(original)


def test_an_async_client_says_that_it_belongs_to_another_loop() -> None:
    """gRPC said "Event loop is closed", and left a coroutine that was never awaited."""

    def nothing() -> Plan[None]:
        yield Sleep(0)

    async def call() -> None:
        await client._transport.run(nothing())

    async def stream() -> None:
        await anext(client.embed_stream(["a"], model="m"))

    client = AsyncClient("localhost:1")
    asyncio.run(call())

    for use in (call, stream):
        with pytest.raises(
            RuntimeError, match=r"belongs to the event loop that first used it, .* make one in each loop"
        ):
            asyncio.run(use())
