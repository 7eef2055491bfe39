"""From protobuf responses to the dataclasses and arrays of ``_types``. Pure; matrices are views of the bytes received."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whit.client._errors import ItemErrors, WhitError, from_item_status, from_problem
from whit.client._metadata import from_struct
from whit.client._split import Batch
from whit.client._types import (
    Collection,
    EmbedItem,
    EmbedResult,
    Hit,
    Limits,
    Memory,
    Model,
    ModelCosts,
    Point,
    SearchResult,
    ServerInfo,
    Timing,
    UpsertItem,
    UpsertResult,
    Vectors,
    Verification,
)
from whit.contract.errors import Problem, Reason
from whit.contract.vectors import EncodedVectors, Encoding, native
from whit.contract.wire import ENCODINGS
from whit.v1 import collection_pb2, embedding_pb2, model_pb2, point_pb2, server_pb2, vector_pb2

T = TypeVar("T")

_PRESSURES: Mapping[int, str] = {
    server_pb2.MEMORY_PRESSURE_NONE: "none",
    server_pb2.MEMORY_PRESSURE_HIGH: "high",
    server_pb2.MEMORY_PRESSURE_CRITICAL: "critical",
}


def plain_id(name: str) -> str:
    """The id in a resource name: ``models/m`` gives ``m``."""
    return name.partition("/")[2]


def model(message: model_pb2.Model) -> Model:
    """A model."""
    return Model(
        name=plain_id(message.name),
        fingerprint=message.fingerprint,
        architecture=message.architecture,
        dimension_count=message.dimension_count,
        matryoshka_dimension_counts=tuple(message.matryoshka_dimension_counts),
        max_token_count=message.max_token_count,
        pooling=message.pooling,
        prompts=dict(message.prompts),
        dtype=message.dtype,
        provider=message.provider,
        verified=message.verified,
        size_bytes=message.size_bytes,
        costs=model_costs(message.costs) if message.HasField("costs") else None,
        layer_counts=tuple(message.layer_counts),
    )


def model_costs(message: model_pb2.ModelCosts) -> ModelCosts:
    """What a model costs."""
    return ModelCosts(
        run_time_us=message.run_time_us,
        token_time_us=message.token_time_us,
        cell_time_us=message.cell_time_us,
        run_count=message.run_count,
        relative_error=message.relative_error if message.HasField("relative_error") else None,
    )


def verification(message: model_pb2.VerifyModelResponse) -> Verification:
    """How a verification went."""
    return Verification(
        message.verified,
        message.text_count,
        message.max_abs_difference,
        message.min_cosine,
        message.tolerance,
    )


def server_info(message: server_pb2.GetServerInfoResponse) -> ServerInfo:
    """A server's description of itself."""
    limits = message.limits
    return ServerInfo(
        version=message.version,
        limits=Limits(
            batch_item_count=limits.batch_item_count,
            text_byte_count=limits.text_byte_count,
            message_byte_count=limits.message_byte_count,
            metadata_byte_count=limits.metadata_byte_count,
            search_hit_count=limits.search_hit_count,
            queue_token_count=limits.queue_token_count,
            stream_window_count=limits.stream_window_count,
        ),
        providers=tuple(message.providers),
        models=tuple(model(entry) for entry in message.models),
        worker_count=message.worker_count,
        uptime_s=message.uptime.ToMicroseconds() / 1e6,
        memory=memory(message.memory) if message.HasField("memory") else None,
    )


def memory(message: server_pb2.Memory) -> Memory:
    """A server's memory; a pressure that this version does not know is "unknown"."""
    pressure = _PRESSURES.get(message.pressure, "unknown")
    return Memory(message.limit_byte_count, message.used_byte_count, pressure, message.refused_count)


def collection(message: collection_pb2.Collection) -> Collection:
    """A collection; a storage that this version does not know is "unknown" with its number."""
    return Collection(
        name=plain_id(message.name),
        model=plain_id(message.model),
        fingerprint=message.model_fingerprint,
        dimension_count=message.dimension_count,
        storage=ENCODINGS.get(message.storage) or f"unknown ({message.storage})",
        point_count=message.point_count,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
    )


def vectors(batch: vector_pb2.VectorBatch) -> Vectors:
    """A matrix, its values a view of the bytes of ``batch``.

    Raises:
        InternalError: an encoding this version does not know, or bytes of another length than the shape implies.
    """
    encoding = ENCODINGS.get(batch.encoding)
    if encoding is None:
        raise _defect(
            f"the server sent vector encoding {batch.encoding}, which this client does not know; upgrade whit"
        )
    encoded = EncodedVectors(encoding, batch.count, batch.dimension_count, batch.data, batch.scales)
    try:
        values = native(encoded)
    except ValueError as error:
        raise _defect(f"the server sent a malformed vector batch: {error}") from None
    return Vectors(encoding, batch.dimension_count, values, _scales(encoding, batch.scales))


def _scales(encoding: Encoding, data: bytes) -> NDArray[np.float32] | None:
    """Float32 [n] for int8, [n, bits] for residual codes, None for the others."""
    if not encoding.scale_count:
        return None
    scales = np.frombuffer(data, "<f4")
    return scales.reshape(-1, encoding.bits) if encoding.bits else scales


def embed_result(
    response: embedding_pb2.EmbedResponse | embedding_pb2.StreamEmbedResponse, batch: Batch
) -> EmbedResult:
    """What became of a batch, those of its items included that were not sent."""
    count = len(batch.kept)
    if len(response.items) != count or any(matrix.count != count for matrix in response.vectors):
        raise _defect(f"the server answered {len(response.items)} items of {count}")
    items = [_embed_item(item, index, batch) for index, item in enumerate(response.items)]
    matrices: dict[str, Vectors] = {matrix.encoding: matrix for matrix in map(vectors, response.vectors)}
    if batch.refused:
        rows = batch.rows
        matrices = {name: _spread(matrix, rows, len(batch)) for name, matrix in matrices.items()}
        items = with_refused(items, batch, _refused_embed_item)
    timing = response.timing
    return EmbedResult(
        matrices,
        items,
        Timing(timing.queue_time_us, timing.tokenize_time_us, timing.infer_time_us),
        response.model_fingerprint,
    )


def _embed_item(item: embedding_pb2.EmbedItem, index: int, batch: Batch) -> EmbedItem:
    # An absent status reads as code 0.
    error = from_item_status(item.status, batch.place, batch.field) if item.status.code else None
    return EmbedItem(item.token_count, item.used_token_count, item.truncated, error)


def _refused_embed_item(error: WhitError) -> EmbedItem:
    return EmbedItem(0, 0, truncated=False, error=error)


def failed_embed_result(
    batch: Batch, error: WhitError | None, dimension_count: int, encodings: Sequence[Encoding]
) -> EmbedResult:
    """A batch of which nothing was embedded: each item has its own error or ``error``, and every row is zeros."""
    failed = [] if error is None else [_refused_embed_item(error)] * len(batch.kept)
    return EmbedResult(
        {encoding: _zeros(encoding, len(batch), dimension_count) for encoding in encodings},
        with_refused(failed, batch, _refused_embed_item),
        Timing(0, 0, 0),
        "",
    )


def with_refused(sent: Iterable[T], batch: Batch, refuse: Callable[[WhitError], T]) -> list[T]:
    """What became of each item of a batch, from what became of those ``sent``."""
    answers = iter(sent)
    refused = batch.refused
    return [refuse(refused[row]) if row in refused else next(answers) for row in range(len(batch))]


def _spread(matrix: Vectors, rows: Sequence[int], count: int) -> Vectors:
    """``matrix`` with its rows moved to ``rows`` of ``count``, and zeros between them."""
    values = np.zeros((count, *matrix.values.shape[1:]), matrix.values.dtype)
    values[rows] = matrix.values
    if matrix.scales is None:
        return Vectors(matrix.encoding, matrix.dimension_count, values)
    scales = np.zeros((count, *matrix.scales.shape[1:]), np.float32)
    scales[rows] = matrix.scales
    return Vectors(matrix.encoding, matrix.dimension_count, values, scales)


def _zeros(encoding: Encoding, count: int, dimension_count: int) -> Vectors:
    scales = bytes(4 * encoding.scale_count * count)
    data = bytes(count * encoding.row_bytes(dimension_count))
    values = native(EncodedVectors(encoding, count, dimension_count, data, scales))
    return Vectors(encoding, dimension_count, values, _scales(encoding, scales))


def join_embed_results(parts: Sequence[EmbedResult]) -> EmbedResult:
    """The answer to a call that was sent in several batches.

    Raises:
        FailedPrecondition: the server changed to another package on the way, so the rows do not belong together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    fingerprints: set[str] = set()
    for part in parts:
        check_one_package(fingerprints, part)
    return EmbedResult(
        {name: _join_vectors([part.by_encoding[name] for part in parts]) for name in first.by_encoding},
        [item for part in parts for item in part.items],
        Timing(
            max(part.timing.queue_time_us for part in parts),
            sum(part.timing.tokenize_time_us for part in parts),
            sum(part.timing.infer_time_us for part in parts),
        ),
        next(iter(fingerprints), ""),
    )


def check_one_package(seen: set[str], result: EmbedResult) -> None:
    """Adds the fingerprint of ``result`` to those ``seen`` before, of which there must not be two.

    Raises:
        FailedPrecondition: it is another one.
    """
    seen |= {result.fingerprint} - {""}  # "": nothing of it was sent
    if len(seen) > 1:
        message = "the server changed to another package between two batches of this call; send the call again"
        raise from_problem(Problem(Reason.FINGERPRINT_MISMATCH, message))


def _join_vectors(parts: Sequence[Vectors]) -> Vectors:
    scales = [part.scales for part in parts if part.scales is not None]
    return Vectors(
        parts[0].encoding,
        parts[0].dimension_count,
        np.concatenate([part.values for part in parts]),
        np.concatenate(scales) if scales else None,
    )


def upsert_result(response: point_pb2.UpsertResponse | point_pb2.StreamUpsertResponse, batch: Batch) -> UpsertResult:
    """What became of a batch of points, those included that were not sent."""
    if len(response.results) != len(batch.kept):
        raise _defect(f"the server answered {len(response.results)} points of {len(batch.kept)}")
    items = [
        UpsertItem(
            result.id,
            result.token_count,
            result.used_token_count,
            result.truncated,
            from_item_status(result.status, batch.place, batch.field) if result.status.code else None,
        )
        for result in response.results
    ]
    return UpsertResult(with_refused(items, batch, _refused_upsert_item), response.sequence)


def failed_upsert_result(batch: Batch, error: WhitError | None) -> UpsertResult:
    """A batch of which no point was written: each has its own error or ``error``."""
    failed = [] if error is None else [UpsertItem(entry.id, 0, 0, False, error) for entry, _ in batch.kept]
    return UpsertResult(with_refused(failed, batch, _refused_upsert_item), 0)


def _refused_upsert_item(error: WhitError) -> UpsertItem:
    return UpsertItem(error.metadata.get("id", ""), 0, 0, truncated=False, error=error)


def raise_item_errors(result: EmbedResult | UpsertResult, start: int = 0) -> None:
    """Raises ``ItemErrors`` if an item failed; ``start`` is the place of the first in what the user gave."""
    items: Sequence[EmbedItem | UpsertItem] = result.items
    errors = {index: item.error for index, item in enumerate(items) if item.error is not None}
    if errors:
        raise ItemErrors(result, errors, start)


def points(response: point_pb2.GetResponse) -> list[Point]:
    """The points read, with float32 vectors if the response has any."""
    if not response.HasField("vectors"):
        rows: Sequence[Any] = [None] * len(response.points)
    else:
        rows = list(vectors(response.vectors).to_float32())
    if len(rows) != len(response.points):
        raise _defect(f"the server sent {len(rows)} vectors for {len(response.points)} points")
    return [
        Point(point.id, point.text, from_struct(point.metadata), row)
        for point, row in zip(response.points, rows, strict=True)
    ]


def search_results(
    response: point_pb2.SearchResponse | point_pb2.StreamSearchResponse, batch: Batch
) -> list[SearchResult]:
    """What each query of a batch found, those included that were not sent."""
    if len(response.results) != len(batch.kept):
        raise _defect(f"the server answered {len(response.results)} queries of {len(batch.kept)}")
    found = [
        SearchResult((), from_item_status(result.status, batch.place, batch.field))
        if result.status.code
        else SearchResult([Hit(hit.id, hit.score, hit.text, from_struct(hit.metadata)) for hit in result.hits])
        for result in response.results
    ]
    return with_refused(found, batch, _refused_search)


def failed_search_results(batch: Batch, error: WhitError | None) -> list[SearchResult]:
    """A batch of which no query was answered: each has its own error or ``error``."""
    failed = [] if error is None else [SearchResult((), error)] * len(batch.kept)
    return with_refused(failed, batch, _refused_search)


def _refused_search(error: WhitError) -> SearchResult:
    return SearchResult((), error)


def raise_search_errors(results: Sequence[SearchResult]) -> None:
    """Raises ``ItemErrors`` if a query failed."""
    errors = {index: result.error for index, result in enumerate(results) if result.error is not None}
    if errors:
        raise ItemErrors(results, errors)


def _defect(message: str) -> WhitError:
    return from_problem(Problem(Reason.INTERNAL, message))
