"""A server that misbehaves as a script says, on a real socket: in ways the real one cannot be made to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_status import rpc_status

from whit.client import Reason
from whit.contract.errors import Problem, to_status
from whit.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
    vector_pb2,
)

WINDOW = 2
GONE = Problem(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_s=0.05)
FULL = Problem(Reason.QUEUE_FULL, "too much is waiting", retry_after_s=0.1)
FULL_FOR_EVER = Problem(Reason.STORAGE_FULL, "no room on disk")


@dataclass
class Script(
    server_pb2_grpc.ServerServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
    collection_pb2_grpc.CollectionServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
):
    """What the server does at each call of a method; ``calls`` has the time of each."""

    collections: list[collection_pb2.Collection] = field(default_factory=list)
    list_models: list[Callable[[Any], Any]] = field(default_factory=list)
    streams: list[Callable[[Iterator[Any], Any], Iterator[Any]]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def GetServerInfo(self, request: Any, context: Any) -> server_pb2.GetServerInfoResponse:  # noqa: N802
        limits = server_pb2.Limits(
            batch_item_count=1000, text_byte_count=1 << 20, message_byte_count=1 << 22, stream_window_count=WINDOW
        )
        return server_pb2.GetServerInfoResponse(
            limits=limits, models=[model_pb2.Model(name="models/m", dimension_count=4)]
        )

    def ListModels(self, request: Any, context: Any) -> model_pb2.ListModelsResponse:  # noqa: N802
        self.calls.append(time.monotonic())
        self.metadata = dict(context.invocation_metadata())
        return self.list_models.pop(0)(context) or model_pb2.ListModelsResponse()

    def ListCollections(self, request: Any, context: Any) -> collection_pb2.ListCollectionsResponse:  # noqa: N802
        return collection_pb2.ListCollectionsResponse(collections=self.collections)

    def GetCollection(self, request: Any, context: Any) -> collection_pb2.GetCollectionResponse:  # noqa: N802
        [found] = [collection for collection in self.collections if collection.name == request.name]
        return collection_pb2.GetCollectionResponse(collection=found)

    Embed = GetModel = VerifyModel = CreateCollection = DeleteCollection = None  # type: ignore[assignment]

    def StreamEmbed(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.calls.append(time.monotonic())
        return self.streams.pop(0)(request_iterator, context)


def fails(problem: Problem) -> Callable[..., Any]:
    """What a method does that refuses every call."""

    def act(*arguments: Any) -> Any:
        arguments[-1].abort_with_status(rpc_status.to_status(to_status(problem)))

    return act


def works(*_: Any) -> None:
    """What a method does that goes well."""


def answers(
    requests: Iterator[Any], _: Any, count: int = 1 << 30, bad: int = -1
) -> Iterator[embedding_pb2.StreamEmbedResponse]:
    """Answers ``count`` batches with vectors of the texts' lengths, but fails the one numbered ``bad``."""
    assert next(requests).config.model == "models/m"
    for number, request in enumerate(requests):
        items = request.batch.items
        if number == bad:
            problem = Problem(Reason.FINGERPRINT_MISMATCH, "batch.items[1]: bad batch")
            yield embedding_pb2.StreamEmbedResponse(status=to_status(problem))
        else:
            data = np.array([[len(item.text)] * 4 for item in items], "<f4").tobytes()
            vectors = vector_pb2.VectorBatch(
                encoding=vector_pb2.VECTOR_ENCODING_FLOAT32, count=len(items), dimension_count=4, data=data
            )
            yield embedding_pb2.StreamEmbedResponse(
                vectors=[vectors], items=[embedding_pb2.EmbedItem(token_count=1)] * len(items)
            )
        if number + 1 == count:
            return


@contextmanager
def scripted_server(script: Script) -> Iterator[str]:
    """A server that does what ``script`` says; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server_pb2_grpc.add_ServerServiceServicer_to_server(script, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(script, server)
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(script, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        script.released.set()
        server.stop(None).wait()
