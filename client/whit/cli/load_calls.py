"""The calls of ``whit load``: requests as the bytes that travel, and of the answers only what became of them.

The generator often shares its cores with the server. What it takes there is taken from what it measures, so it leaves out what the
SDK does for its users: checking and splitting requests, arrays, retries, errors with words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from whit.cli.load_plan import OK
from whit.client._channel import aio_channel
from whit.client._errors import from_rpc_error
from whit.client._methods import EMBED
from whit.contract.errors import from_status
from whit.contract.names import model_name
from whit.v1 import embedding_pb2

_CONNECT_S = 5.0


def encode_request(model: str, texts: Sequence[str]) -> bytes:
    """An ``EmbedRequest`` for the vectors of ``texts``, which are cut to what the model reads."""
    asked = embedding_pb2.EmbedOptions(model=model_name(model), on_overflow=embedding_pb2.OVERFLOW_POLICY_TRUNCATE)
    return embedding_pb2.EmbedRequest(options=asked, texts=texts).SerializeToString()


class Calls:
    """One channel to a server, on which ``embed`` is called any number of times at once. An async context manager."""

    def __init__(self, server: str, credentials: grpc.ChannelCredentials | None) -> None:
        self._server = server
        self._channel = aio_channel(server, credentials)
        self._call: Any = self._channel.unary_unary(EMBED.path)

    async def __aenter__(self) -> Self:
        # Connected before the first request is due; where there is no server, the requests will tell.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._channel.channel_ready(), _CONNECT_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def embed(self, request: bytes, timeout_s: float) -> tuple[str, float | None]:
        """What became of a request: OK or the name of a gRPC status code, and the seconds of its RetryInfo, if it has one.

        An item with a problem of its own gives the request its status.
        """
        try:
            answer = embedding_pb2.EmbedResponse.FromString(await self._call(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # the only one of which more is asked
                return error.code().name, None
            problem = from_rpc_error(error, address=self._server, method=EMBED.name, timeout=timeout_s)
            return problem.code.name, problem.retry_after_s
        for item in answer.items:
            if item.HasField("status"):
                return from_status(item.status).status_code.name, None
        return OK, None
