"""Upsert and StreamUpsert: checks points, embeds their texts, writes those that pass in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whit.contract.errors import Problem, Reason, to_status
from whit.contract.vectors import FloatMatrix
from whit.server.engine import Embedded, EmbedSpec, Lane, LoadedModel
from whit.server.engine.problems import bad_item
from whit.server.errors import ServiceError, response_too_large
from whit.server.index import CollectionHandle, CollectionInfo, PointWrite
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.collections import model_of, open_collection
from whit.server.service.convert import BYTES_A_JSON_BYTE, from_batch, metadata_json, truncates, with_path
from whit.server.service.embedding import prompt_of, unfit_texts
from whit.server.service.rpc import Call
from whit.server.service.streams import Turn
from whit.v1 import point_pb2, vector_pb2

DOCUMENT_ROLE = "document"
_READ_ON_LOOP_BYTES = 32_768
_SEQUENCE_BYTES = 11  # of an answer's sequence, at most


@dataclass(frozen=True, slots=True)
class Target:
    """Where points go, and how their texts are embedded."""

    handle: CollectionHandle
    info: CollectionInfo
    role: str
    truncate: bool


@dataclass(slots=True)
class _Draft:
    """The points of a batch on their way: row i of everything belongs to point i."""

    points: Sequence[PointWrite]
    problems: dict[int, Problem]


async def read_target(backend: Backend, collection: str, role: str, on_overflow: int, at: str) -> Target:
    """Checks where a call or stream writes; ``at`` is the path of these fields, such as ``config.``.

    Raises:
        ServiceError: INVALID_REQUEST, COLLECTION_NOT_FOUND, STORAGE_FAILED; FINGERPRINT_MISMATCH if a role was given and
            the collection's model is not loaded.
    """
    violations = checks.Violations()
    truncate = violations.read(f"{at}on_overflow", lambda: truncates(on_overflow), False)
    violations.check()
    handle, info = await open_collection(backend, collection, f"{at}collection")
    if role:
        model = model_of(info, backend.engine)
        violations.read(f"{at}role", lambda: prompt_of(model, role), "")
        violations.check()
    return Target(handle, info, role, truncate)


async def upsert(
    backend: Backend,
    target: Target,
    points: Sequence[point_pb2.Point],
    vectors: vector_pb2.VectorBatch | None,
    call: Call,
    *,
    wait: bool,
    at: str,
    turn: Turn | None = None,
) -> point_pb2.UpsertResponse:
    """Writes one batch and says what became of each point; when it returns, those without a status are on disk.

    Args:
        backend: the server.
        target: where to.
        points: as received.
        vectors: a row for each point, or None if the texts are to be embedded.
        call: for the deadline.
        wait: await room in a full queue instead of being refused.
        at: path of ``points`` and ``vectors``, such as ``batch.``.
        turn: place in a stream: writes keep the order of the batches.

    Raises:
        ServiceError: nothing was written.
    """
    checks.batch_size(len(points), backend.config.batch_item_count, f"{at}points", "points")
    size = sum(point.ByteSize() for point in points)
    draft = await backend.run(size > _READ_ON_LOOP_BYTES, _read, backend, points, f"{at}points", vectors is None)
    embedded: Embedded | None = None
    if vectors is None:
        embedded = await _embed(backend, target, draft, call, wait=wait, at=at)
        matrix = embedded.vectors
    else:
        matrix = await backend.run(
            len(vectors.data) > _READ_ON_LOOP_BYTES, _read_vectors, target, vectors, draft, f"{at}vectors"
        )
    response = point_pb2.UpsertResponse(results=[_result(draft, row, embedded) for row in range(len(points))])
    size, most = response.ByteSize() + _SEQUENCE_BYTES, backend.config.message_byte_count
    if size > most:  # said now, while nothing is written
        raise ServiceError(response_too_large(size, most))
    if turn is not None:
        await turn.comes()
    response.sequence = await backend.storage.write(target.info.id, _write, target.handle, draft, matrix)
    return response


def _read(backend: Backend, points: Sequence[point_pb2.Point], path: str, is_embedded: bool) -> _Draft:
    """Checks everything but the vectors and what the engine checks."""
    counts = Counter(point.id for point in points)
    draft = _Draft([], {})
    written: list[PointWrite] = []
    for row, point in enumerate(points):
        metadata = "{}"
        try:
            metadata = _read_metadata(point, backend.config.metadata_byte_count)
        except ValueError as error:
            draft.problems[row] = bad_item(Reason.INVALID_REQUEST, f"{path}[{row}].metadata", str(error))
        description = checks.id_problem(point.id)
        if description:
            draft.problems[row] = bad_item(Reason.INVALID_REQUEST, f"{path}[{row}].id", description)
        elif counts[point.id] > 1:
            description = f"is {point.id!r}, which {counts[point.id]} points of this batch have, so none of them was written; give each id once"
            draft.problems[row] = bad_item(Reason.DUPLICATE_ID, f"{path}[{row}].id", description)
        elif not is_embedded and len(point.text.encode()) > backend.config.text_byte_count:
            description = f"has more than {backend.config.text_byte_count} bytes of UTF-8 (text_byte_count); send it in shorter pieces"
            draft.problems[row] = bad_item(Reason.TEXT_TOO_LONG, f"{path}[{row}].text", description)
        written.append(PointWrite(point.id, point.text, metadata))
    draft.points = written
    return draft


def _read_metadata(point: point_pb2.Point, limit: int) -> str:
    if not point.HasField("metadata"):
        return "{}"
    if point.metadata.ByteSize() > BYTES_A_JSON_BYTE * limit:  # millions of values would take seconds to convert
        raise ValueError(
            f"has more than the {limit} bytes as JSON that it may have (metadata_byte_count); keep less with the point"
        )
    text = metadata_json(point.metadata)
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise ValueError(
            f"has {size} bytes as JSON, it may have {limit} (metadata_byte_count); keep less with the point"
        )
    return text


def _read_vectors(target: Target, vectors: vector_pb2.VectorBatch, draft: _Draft, path: str) -> FloatMatrix:
    matrix = from_batch(vectors, count=len(draft.points), dimension_count=target.info.dimension_count, at=path)
    for row, description in target.handle.unfit_vectors(matrix).items():
        draft.problems.setdefault(row, bad_item(Reason.INVALID_VECTOR, f"{path}[{row}]", description))
    return matrix


async def _embed(backend: Backend, target: Target, draft: _Draft, call: Call, *, wait: bool, at: str) -> Embedded:
    model = model_of(target.info, backend.engine)
    spec = EmbedSpec(
        prompt=_prompt(model, target.role),
        dimension_count=target.info.dimension_count,
        normalize=True,
        truncate=target.truncate,
    )
    # A point that failed already goes as an empty text, which the engine refuses: so that every row keeps its place.
    texts = ["" if row in draft.problems else point.text for row, point in enumerate(draft.points)]
    path = f"{at}points"
    embedded = await backend.engine.embed_texts(
        model.id, texts, spec, lane=Lane.BULK, deadline=call.deadline, flow=call.flow, wait=wait, field=path
    )
    for row, item in enumerate(embedded.items):
        if item.problem is not None:
            problem = with_path(item.problem, f"{path}[{row}]", f"{path}[{row}].text")
            draft.problems.setdefault(row, problem)
    vectors = embedded.vectors
    unfit = await backend.run(vectors.nbytes > _READ_ON_LOOP_BYTES, target.handle.unfit_vectors, vectors)
    for row, problem in unfit_texts(unfit, lambda row: f"{path}[{row}].text").items():
        draft.problems.setdefault(row, problem)
    return embedded


def _prompt(model: LoadedModel, role: str) -> str:
    return prompt_of(model, role) if role else model.manifest.prompts.get(DOCUMENT_ROLE, "")


def _write(handle: CollectionHandle, draft: _Draft, matrix: FloatMatrix) -> int:
    rows = [row for row in range(len(draft.points)) if row not in draft.problems]
    if len(rows) == len(draft.points):
        return handle.upsert(draft.points, matrix)
    return handle.upsert([draft.points[row] for row in rows], matrix[np.array(rows, np.intp)])


def _result(draft: _Draft, row: int, embedded: Embedded | None) -> point_pb2.PointResult:
    problem = draft.problems.get(row)
    result = point_pb2.PointResult(id=draft.points[row].id, status=to_status(problem) if problem else None)
    if embedded is not None:
        item = embedded.items[row]
        result.token_count, result.used_token_count = item.token_count, item.used_token_count
        result.truncated = item.truncated
    return result
