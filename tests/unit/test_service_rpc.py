"""How an error leaves: as a status, or quietly where the call has ended meanwhile."""

import asyncio

import grpc
import grpc.aio
import pytest

from whit.contract.errors import Problem, Reason
from whit.server.config import build_config
from whit.server.service.rpc import Dispatcher, abort
from whit.v1 import embedding_pb2

PROBLEM = Problem(Reason.DEADLINE_EXCEEDED, "too late")


class Context:
    """Ends calls like gRPC's: always by raising."""

    def __init__(self, outcome):
        self._outcome = outcome

    async def abort(self, code, details, trailing_metadata):
        self.aborted = code, details, [key for key, _ in trailing_metadata]
        raise self._outcome


def test_a_problem_becomes_a_status_with_details():
    context = Context(grpc.aio.AbortError())

    with pytest.raises(grpc.aio.AbortError):
        asyncio.run(abort(context, PROBLEM))

    assert context.aborted == (grpc.StatusCode.DEADLINE_EXCEEDED, "too late", ["grpc-status-details-bin"])


def test_a_call_that_has_ended_meanwhile_counts_as_cancelled():
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(abort(Context(grpc.aio.InternalError()), PROBLEM))


class BrokenStream:
    """The context of a stream whose client has gone: no response can be sent."""

    def time_remaining(self):
        return None

    def peer(self):
        return "nobody"

    async def write(self, response):
        raise grpc.aio.InternalError


class Writer:
    """A service whose stream answers without being asked."""

    async def stream_embed(self, stream):
        await stream.write(embedding_pb2.StreamEmbedResponse())


def test_a_stream_whose_client_has_gone_counts_as_cancelled():
    """gRPC sends no status then; after a plain return it would try to, and log an error."""
    service = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]
    dispatcher = Dispatcher(build_config({"models": ["m"], "data": "d"}, {}))
    dispatcher.open({service.full_name: Writer()})
    method = HandlerCallDetails(f"/{service.full_name}/StreamEmbed")
    handler = dispatcher.handlers([service])[0].service(method)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(handler.stream_stream(None, BrokenStream()))

    assert dispatcher.active_count == 0


class HandlerCallDetails(grpc.HandlerCallDetails):
    """Asks for the handler of a method."""

    def __init__(self, method):
        self.method, self.invocation_metadata = method, ()
