"""The raw stubs of a server, and its errors read back: for tests of what really goes over the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.rpc import status_pb2
from numpy.typing import NDArray

from whit.contract.errors import Problem, from_status
from whit.contract.vectors import EncodedVectors, Encoding, decode, encode
from whit.contract.wire import ENCODING_NUMBERS, ENCODINGS
from whit.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    model_pb2_grpc,
    point_pb2,
    point_pb2_grpc,
    server_pb2_grpc,
    vector_pb2,
)

MODEL = "models/tiny"


@dataclass
class Wire:
    """A synchronous channel and a stub for each service."""

    channel: grpc.Channel
    _names: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def __post_init__(self) -> None:
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.collections = collection_pb2_grpc.CollectionServiceStub(self.channel)
        self.points = point_pb2_grpc.PointServiceStub(self.channel)
        self.info = server_pb2_grpc.ServerServiceStub(self.channel)

    def embed(self, *texts: str, timeout: float | None = None, **options: Any) -> embedding_pb2.EmbedResponse:
        """Embeds texts with the tiny model."""
        return self.embedding.Embed(
            embedding_pb2.EmbedRequest(options=embed_options(**options), texts=texts), timeout=timeout
        )

    def new_collection(self, **fields: Any) -> str:
        """Makes a collection of the tiny model and returns its resource name."""
        fields = {"name": f"collections/c{next(self._names)}", "model": MODEL} | fields
        made = self.collections.CreateCollection(
            collection_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(**fields))
        )
        return made.collection.name

    def upsert(self, collection: str, points: list[point_pb2.Point], **fields: Any) -> point_pb2.UpsertResponse:
        """Writes points."""
        return self.points.Upsert(point_pb2.UpsertRequest(collection=collection, points=points, **fields))

    def get(self, collection: str, *ids: str, **fields: Any) -> point_pb2.GetResponse:
        """Reads points."""
        return self.points.Get(point_pb2.GetRequest(collection=collection, ids=ids, **fields))

    def count(self, collection: str) -> int:
        """Counts points."""
        return self.points.Count(point_pb2.CountRequest(collection=collection)).count

    def search(self, collection: str, *texts: str, vectors: Any = None, **options: Any) -> point_pb2.SearchResponse:
        """Searches by texts, or vectors."""
        fields = point_pb2.SearchOptions(collection=collection, **options)
        return self.points.Search(point_pb2.SearchRequest(options=fields, texts=texts, vectors=vectors))


@contextmanager
def connected(address: str) -> Iterator[Wire]:
    """A channel to a server, without a limit on what it may receive."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield Wire(channel)


def embed_options(**options: Any) -> embedding_pb2.EmbedOptions:
    """Options for the tiny model."""
    return embedding_pb2.EmbedOptions(**({"model": MODEL} | options))


def point(id_: str, text: str = "", **metadata: Any) -> point_pb2.Point:
    """A point; without metadata the field is absent."""
    made = point_pb2.Point(id=id_, text=text)
    if metadata:
        made.metadata.update(metadata)
    return made


def vector_batch(vectors: Any, encoding: Encoding = Encoding.FLOAT32) -> vector_pb2.VectorBatch:
    """A matrix as it travels."""
    encoded = encode(np.atleast_2d(np.asarray(vectors, np.float32)), encoding)
    return vector_pb2.VectorBatch(
        encoding=ENCODING_NUMBERS[encoding],
        count=encoded.count,
        dimension_count=encoded.dimension_count,
        data=encoded.data,
        scales=encoded.scales,
    )


def matrix(batch: vector_pb2.VectorBatch) -> NDArray[np.float32]:
    """The values of a batch, decoded."""
    return decode(
        EncodedVectors(ENCODINGS[batch.encoding], batch.count, batch.dimension_count, batch.data, batch.scales)
    )


def problem_of(error: grpc.RpcError) -> Problem:
    """The rich status of a failed call; fails if there is none, or if it does not agree with the plain one."""
    trailing = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416
    problem = from_status(status_pb2.Status.FromString(trailing["grpc-status-details-bin"]))
    assert problem.code is error.code()
    assert problem.message == error.details()
    return problem


def refused(call: Callable[[], Any]) -> Problem:
    """The problem with which a call is refused; fails if it is not."""
    try:
        call()
    except grpc.RpcError as error:
        return problem_of(error)
    raise AssertionError("the call was not refused")


def item_problem(item: Any) -> Problem | None:
    """The problem of one item, or None."""
    return from_status(item.status) if item.HasField("status") else None
