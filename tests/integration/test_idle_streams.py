"""Streams on which nothing happens: a client that sends nothing, one that takes no answer, and one that was only slow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from tests.support.clients import KINDS, open_client
from tests.support.server import running_server_for_tests, server_thread
from tests.support.waiting import wait_until
from tests.support.wire import Wire, connected, embed_options, point, problem_of
from whit.client import AsyncClient, Client, Point, RetryPolicy, Unavailable
from whit.contract.errors import Problem, Reason
from whit.v1 import embedding_pb2, embedding_pb2_grpc, point_pb2

IDLE_S = 0.3

Embed = embedding_pb2.StreamEmbedRequest


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    with server_thread(data, stream_idle_timeout_s=IDLE_S, max_stream_count=2) as address:
        yield address


def embed_config() -> Any:
    return Embed(config=embed_options())


def embed_batch() -> Any:
    return Embed(batch=embedding_pb2.StreamEmbedBatch(items=[embedding_pb2.StreamEmbedItem(text="x")]))


def ended(call: Any) -> Problem:
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    return problem_of(caught.value)


@pytest.mark.parametrize("sent", [[], ["config"], ["config", "batch"]], ids=["nothing", "config", "a batch"])
def test_a_stream_whose_client_sends_nothing_more_ends(address: str, sent: list[str]) -> None:
    hold = threading.Event()

    def requests() -> Iterator[Any]:
        for kind in sent:
            yield embed_config() if kind == "config" else embed_batch()
        hold.wait()

    with connected(address) as wire:
        start = time.monotonic()
        problem = ended(wire.embedding.StreamEmbed(requests(), timeout=30))
        assert time.monotonic() - start >= IDLE_S
        hold.set()
    assert problem.reason is Reason.STREAM_IDLE
    assert problem.status_code is grpc.StatusCode.UNAVAILABLE
    assert problem.retry_after_s == 0
    assert "sent nothing for 0.3 s (stream_idle_timeout_s)" in problem.message


def test_silent_streams_do_not_keep_others_out_for_ever(address: str) -> None:
    hold = threading.Event()

    def requests() -> Iterator[Any]:
        yield embed_config()
        hold.wait()

    with connected(address) as wire:
        silent = [wire.embedding.StreamEmbed(requests(), timeout=30) for _ in range(2)]
        with Client(address, retry=RetryPolicy(attempt_count=100, max_delay_s=0.1)) as whit:
            assert sum(len(found) for found in whit.embed_stream(["a", "b"], model="tiny")) == 2
        hold.set()
        assert {ended(call).reason for call in silent} == {Reason.STREAM_IDLE}


def test_a_client_that_waits_for_its_answers_is_not_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One batch is all the client sends; its answer takes longer than a stream may be idle.
    async def run() -> None:
        async with running_server_for_tests(tmp_path, stream_idle_timeout_s=IDLE_S) as server:
            embed = server.engine.embed_texts

            async def slow(*arguments: Any, **options: Any) -> Any:
                await asyncio.sleep(3 * IDLE_S)
                return await embed(*arguments, **options)

            monkeypatch.setattr(server.engine, "embed_texts", slow)
            async with grpc.aio.insecure_channel(server.address) as channel:
                call = embedding_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed(timeout=30)
                await call.write(embed_config())
                await call.write(embed_batch())
                answer = await call.read()
                assert isinstance(answer, embedding_pb2.StreamEmbedResponse)
                assert answer.items[0].token_count
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF

    asyncio.run(run())


def test_answers_that_a_client_does_not_take_are_not_held_for_ever(tmp_path: Path) -> None:
    # It reads nothing, so what it is to be sent fills first what the connection buffers, then the bytes that the server has for all.
    hold = threading.Event()
    items = [embedding_pb2.StreamEmbedItem(id=f"{i:0250}", text="x") for i in range(1000)]

    def requests() -> Iterator[Any]:
        yield embed_config()
        while not hold.is_set():
            yield Embed(batch=embedding_pb2.StreamEmbedBatch(items=items))

    limits = {"inflight_byte_count": 2_000_000, "message_byte_count": 1_500_000}
    with (
        server_thread(tmp_path, stream_idle_timeout_s=1.0, **limits) as address,
        connected(address) as wire,
    ):
        call = wire.embedding.StreamEmbed(requests(), timeout=60)
        wait_until(lambda: not is_served(wire))
        wait_until(lambda: all(is_served(wire) for _ in range(100)))
        problem = ended(call)  # after all that was on its way
        hold.set()
    assert problem.reason is Reason.STREAM_IDLE
    assert "took no answer for 1 s" in problem.message


def is_served(wire: Wire) -> bool:
    try:
        wire.embed("x")
    except grpc.RpcError as error:
        if problem_of(error).reason is not Reason.QUEUE_FULL:
            raise
        return False
    return True


def test_zero_is_for_ever(tmp_path: Path) -> None:
    hold = threading.Event()

    def requests() -> Iterator[Any]:
        yield embed_config()
        hold.wait(1.0)
        yield embed_batch()

    with server_thread(tmp_path, stream_idle_timeout_s=0) as address, connected(address) as wire:
        assert len(list(wire.embedding.StreamEmbed(requests(), timeout=30))) == 1


# ---- the clients ----


@pytest.fixture(params=KINDS)
def whit(request: pytest.FixtureRequest, address: str) -> Iterator[Client]:
    with open_client(str(request.param), address, timeout=30) as client:
        yield client


def slowly(items: list[Any]) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number:
            time.sleep(2 * IDLE_S)
        yield item


def test_a_slow_source_is_served_to_its_end(whit: Client) -> None:
    found = list(whit.embed_stream(slowly(["a", "b", "c"]), model="tiny", batch_size=1))
    together = whit.embed(["a", "b", "c"], model="tiny")
    assert np.array_equal(np.concatenate([batch.vectors for batch in found]), together.vectors)


def test_a_slow_source_of_points_is_written_to_its_end(whit: Client) -> None:
    whit.create_collection("slow", model="tiny", exist_ok=True)
    points = [Point(str(n), f"text {n}") for n in range(3)]
    sizes = [len(found) for found in whit.upsert_stream("slow", slowly(points), batch_size=1)]
    assert sizes == [1, 1, 1]
    assert whit.count("slow") == 3
    assert [hit.id for found in whit.search_stream("slow", slowly(["text 0", "text 2"]), batch_size=1) for hit in found]
    whit.delete_collection("slow")


def test_whoever_wants_no_second_try_is_told_what_was_answered(address: str) -> None:
    with (
        Client(address, timeout=30, retry=RetryPolicy(attempt_count=1)) as whit,
        pytest.raises(Unavailable, match=r"the stream broke after its first 1 items were answered") as caught,
    ):
        list(whit.embed_stream(slowly(["a", "b", "c"]), model="tiny", batch_size=1))
    assert caught.value.reason is Reason.STREAM_IDLE


def test_a_slow_async_source_is_served_to_its_end(address: str) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in "abc":
            await asyncio.sleep(2 * IDLE_S)
            yield text

    async def run() -> int:
        async with AsyncClient(address) as whit:
            return sum([len(found) async for found in whit.embed_stream(texts(), model="tiny", batch_size=1)])

    assert asyncio.run(run()) == 3


def test_a_stream_that_is_not_idle_is_left_alone(address: str) -> None:
    with connected(address) as wire:
        name = wire.new_collection()
        config = point_pb2.StreamUpsertRequest(config=point_pb2.StreamUpsertConfig(collection=name))
        batch = point_pb2.StreamUpsertRequest(batch=point_pb2.StreamUpsertBatch(points=[point("a", "one")]))
        assert len(list(wire.points.StreamUpsert(iter([config, batch]), timeout=30))) == 1
