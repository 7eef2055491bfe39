"""Overload over a real socket: refused with a reason and a time to come back, and served again afterwards."""

import asyncio

import grpc
import grpc.aio
import numpy as np
import pytest

from tests.support.server import DIMENSION_COUNT, running_server_for_tests, server_thread
from tests.support.wire import connected, embed_options, item_problem, point, problem_of, refused, vector_batch
from whit.contract.errors import Reason
from whit.server.service import upsert
from whit.v1 import embedding_pb2, embedding_pb2_grpc

LONG = "some words of text " * 10


def request(count, text=LONG):
    return embedding_pb2.EmbedRequest(options=embed_options(), texts=[text] * count)


async def outcomes(calls):
    """For each call None, or the problem with which it was refused."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [problem_of(error) if isinstance(error, grpc.RpcError) else None for error in found]


def overload(tmp_path, setting, *, call_count=40, texts=40, **limits):
    """Sends many calls at once: some are answered, some refused, and then the server serves on."""

    async def run():
        async with (
            running_server_for_tests(tmp_path, worker_count=1, **limits) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            found = await outcomes([stub.Embed(request(texts)) for _ in range(call_count)])
            assert not (await stub.Embed(request(1))).items[0].HasField("status")
            assert server.dispatcher.active_count == server.dispatcher.held_byte_count == 0
            return found

    found = asyncio.run(run())
    refusals = [problem for problem in found if problem is not None]
    assert 0 < len(refusals) < call_count
    for problem in refusals:
        assert problem.reason is Reason.QUEUE_FULL
        assert problem.status_code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert problem.retry_after_s > 0
        assert setting in problem.message


def test_a_full_queue_is_refused(tmp_path):
    overload(tmp_path, "queue_token_count", queue_token_count=4000)


def test_too_many_calls_are_refused(tmp_path):
    overload(tmp_path, "max_call_count", max_call_count=3)


def test_each_call_of_a_burst_is_answered_or_refused_with_a_reason(tmp_path):
    """gRPC itself drops what piles up while the event loop looks away, with nothing but CANCELLED."""

    async def run():
        async with running_server_for_tests(tmp_path) as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            return await outcomes([stub.Embed(request(1)) for _ in range(2500)])

    assert {problem.reason for problem in asyncio.run(run()) if problem} <= {Reason.QUEUE_FULL}


def test_too_many_bytes_are_refused(tmp_path):
    limits = {"message_byte_count": 70_000, "text_byte_count": 60_000, "metadata_byte_count": 100}
    overload(tmp_path, "inflight_byte_count", texts=300, inflight_byte_count=70_000, **limits)


def test_too_many_streams_are_refused_and_their_places_come_back(tmp_path):
    async def run():
        async with (
            running_server_for_tests(tmp_path, max_stream_count=2) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            config = embedding_pb2.StreamEmbedRequest(config=embed_options())
            batch = embedding_pb2.StreamEmbedRequest(
                batch=embedding_pb2.StreamEmbedBatch(items=[embedding_pb2.StreamEmbedItem(text="a")])
            )

            async def config_alone():
                yield config

            for _ in range(2):
                streams = [stub.StreamEmbed() for _ in range(2)]
                for stream in streams:
                    await stream.write(config)
                    await stream.write(batch)
                    assert (await stream.read()).items
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await anext(aiter(stub.StreamEmbed(config_alone())))
                assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                problem = problem_of(error.value)
                assert "max_stream_count" in problem.message
                assert problem.retry_after_s > 0
                for stream in streams:
                    await stream.done_writing()
                    assert await stream.read() is grpc.aio.EOF
                await asyncio.wait_for(server.dispatcher.idle(), 5)

    asyncio.run(run())


def test_streams_wait_where_calls_are_refused(tmp_path):
    limits = {"message_byte_count": 70_000, "text_byte_count": 60_000, "metadata_byte_count": 100}

    async def run():
        async with (
            running_server_for_tests(tmp_path, queue_token_count=2000, inflight_byte_count=70_000, **limits) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

            async def stream(count):
                async def requests():
                    yield embedding_pb2.StreamEmbedRequest(config=embed_options())
                    items = [embedding_pb2.StreamEmbedItem(text=LONG) for _ in range(200)]
                    for _ in range(count):
                        yield embedding_pb2.StreamEmbedRequest(batch=embedding_pb2.StreamEmbedBatch(items=items))

                return [answer async for answer in stub.StreamEmbed(requests())]

            found = await asyncio.gather(*(stream(5) for _ in range(4)))
            for answers in found:
                assert len(answers) == 5
                assert not any(answer.HasField("status") for answer in answers)
            assert server.dispatcher.held_byte_count == 0

    asyncio.run(run())


def test_a_deadline_drops_work_that_has_not_begun(tmp_path):
    async def run():
        async with (
            running_server_for_tests(tmp_path, worker_count=1) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            calls = [stub.Embed(request(200), timeout=0.05) for _ in range(8)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            codes = {error.code() for error in found if isinstance(error, grpc.RpcError)}
            assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
            await asyncio.wait_for(server.dispatcher.idle(), 5)
            assert "0 calls, 0 tokens waiting" in repr(server.engine)

    asyncio.run(run())


def test_what_was_stored_under_higher_limits_is_there_under_lower_ones(tmp_path):
    large = point("large", "water " * 20_000, note="x" * 500)
    with server_thread(tmp_path) as address, connected(address) as wire:
        name = wire.new_collection()
        wire.upsert(name, [large, point("small", "a text")], vectors=vector_batch(np.eye(2, DIMENSION_COUNT)))
    limits = {"message_byte_count": 65_536, "text_byte_count": 100, "metadata_byte_count": 100, "batch_item_count": 1}

    with server_thread(tmp_path, **limits) as address, connected(address) as wire:
        assert wire.count(name) == 2
        assert wire.get(name, "small").points[0].text == "a text"
        found = wire.search(name, vectors=vector_batch(np.eye(2, DIMENSION_COUNT)[:1]), without_payload=True)
        assert found.results[0].hits[0].id == "large"
        problem = refused(lambda: wire.get(name, "large"))
        assert "start the server with a larger --message-byte-count" in problem.message
    with server_thread(tmp_path) as address, connected(address) as wire:
        assert list(wire.get(name, "large").points) == [large]


def test_metadata_of_many_small_values_is_refused_without_being_converted(tmp_path, monkeypatch):
    """Hundreds of thousands of them held the interpreter's lock for seconds, to be refused then."""
    converted = []
    monkeypatch.setattr(upsert, "metadata_json", lambda struct: converted.append(struct) or "{}")
    with server_thread(tmp_path, metadata_byte_count=200) as address, connected(address) as wire:
        points = [point("many", "a text", values=[1] * 500), point("few", "a text", n=1)]
        written = wire.upsert(wire.new_collection(), points)

    problem, fine = (item_problem(result) for result in written.results)
    assert problem.violations[0].field == "points[0].metadata"
    assert "more than the 200 bytes as JSON that it may have (metadata_byte_count)" in problem.message
    assert (fine, len(converted)) == (None, 1)
