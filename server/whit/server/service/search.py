"""Search and StreamSearch: embeds query texts, or takes query vectors, and finds the nearest points."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whit.contract.errors import FieldViolation, Problem, Reason, to_status
from whit.contract.vectors import FloatMatrix
from whit.server.engine import EmbedSpec, Lane
from whit.server.engine.problems import bad_item
from whit.server.errors import ServiceError, refusal, response_too_large
from whit.server.index import CollectionHandle, CollectionInfo
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.collections import model_of, open_collection
from whit.server.service.convert import fill_struct, from_batch, truncates
from whit.server.service.embedding import prompt_of, unfit_texts
from whit.server.service.rpc import Call
from whit.v1 import point_pb2, vector_pb2

QUERY_ROLE = "query"
DEFAULT_LIMIT = 10
# Hits read and converted at a time, so that an answer that is too large is noticed before all of it is in memory.
_HITS_AT_A_TIME = 8192
# Queries searched for at a time. Between two such parts others get their turn, and who has gone is noticed.
_QUERIES_AT_A_TIME = 256
# Bytes read from a collection for an answer, to the bytes of the answer: metadata may be longer as JSON than on the wire.
MEMORY_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Search:
    """``SearchOptions``, checked."""

    handle: CollectionHandle
    info: CollectionInfo
    limit: int
    score_threshold: float | None
    with_payload: bool
    role: str
    truncate: bool
    exact: bool


async def read_search(backend: Backend, options: point_pb2.SearchOptions, at: str) -> Search:
    """Checks the options of a call or stream; ``at`` is their path in the request.

    Raises:
        ServiceError: INVALID_REQUEST, COLLECTION_NOT_FOUND, STORAGE_FAILED; FINGERPRINT_MISMATCH if a role was given and
            the collection's model is not loaded.
    """
    violations = checks.Violations()
    truncate = violations.read(f"{at}.on_overflow", lambda: truncates(options.on_overflow), False)
    most = backend.config.search_hit_count
    if not 0 <= options.limit <= most:
        violations.add(f"{at}.limit", f"must be 1 to {most} (search_hit_count), or 0 for 10; got {options.limit}")
    threshold = options.score_threshold if options.HasField("score_threshold") else None
    if threshold is not None and not -1 <= threshold <= 1:
        violations.add(f"{at}.score_threshold", f"is a cosine and must be -1 to 1; got {threshold:g}")
    violations.check()
    handle, info = await open_collection(backend, options.collection, f"{at}.collection")
    if options.role:
        model = model_of(info, backend.engine)
        violations.read(f"{at}.role", lambda: prompt_of(model, options.role), "")
        violations.check()
    return Search(
        handle=handle,
        info=info,
        limit=options.limit or min(DEFAULT_LIMIT, most),
        score_threshold=threshold,
        with_payload=not options.without_payload,
        role=options.role,
        truncate=truncate,
        exact=options.exact,
    )


async def search(
    backend: Backend,
    plan: Search,
    texts: Sequence[str],
    vectors: vector_pb2.VectorBatch | None,
    call: Call,
    *,
    wait: bool,
    at: str,
) -> point_pb2.SearchResponse:
    """Answers one batch of queries, each with hits or a status of its own; ``at`` is the path of the batch, or empty.

    Raises:
        ServiceError: the batch failed as a whole.
    """
    if texts and vectors is not None:
        raise refusal([FieldViolation(f"{at}vectors", "cannot be given beside texts; send two requests")])
    start = time.perf_counter()
    most = backend.config.batch_item_count
    if vectors is not None:
        checks.batch_size(max(0, vectors.count), most, f"{at}vectors", "vectors")
        queries = from_batch(vectors, count=None, dimension_count=plan.info.dimension_count, at=f"{at}vectors")
        problems = {
            row: bad_item(Reason.INVALID_VECTOR, f"{at}vectors[{row}]", description)
            for row, description in plan.handle.unfit_vectors(queries, is_query=True).items()
        }
    else:
        checks.batch_size(len(texts), most, f"{at}texts", "texts")
        queries, problems = await _embed(backend, plan, texts, call, wait=wait, at=at)
    embedded = time.perf_counter()
    results = await _find_all(backend, plan, queries, problems)
    timing = point_pb2.SearchTiming(
        embed_time_us=0 if vectors is not None else round((embedded - start) * 1e6),
        search_time_us=round((time.perf_counter() - embedded) * 1e6),
    )
    return point_pb2.SearchResponse(results=results, timing=timing)


async def _embed(
    backend: Backend, plan: Search, texts: Sequence[str], call: Call, *, wait: bool, at: str
) -> tuple[FloatMatrix, dict[int, Problem]]:
    model = model_of(plan.info, backend.engine)
    prompt = prompt_of(model, plan.role) if plan.role else model.manifest.prompts.get(QUERY_ROLE, "")
    spec = EmbedSpec(prompt=prompt, dimension_count=plan.info.dimension_count, normalize=True, truncate=plan.truncate)
    embedded = await backend.engine.embed_texts(
        model.id,
        texts,
        spec,
        lane=Lane.INTERACTIVE,
        deadline=call.deadline,
        flow=call.flow,
        wait=wait,
        field=f"{at}texts",
    )
    problems = unfit_texts(plan.handle.unfit_vectors(embedded.vectors, is_query=True), lambda row: f"{at}texts[{row}]")
    # Texts without a vector have zeros there: why they have none says more.
    problems |= {row: item.problem for row, item in enumerate(embedded.items) if item.problem}
    return embedded.vectors, problems


async def _find_all(
    backend: Backend, plan: Search, queries: FloatMatrix, problems: dict[int, Problem]
) -> list[point_pb2.SearchResult]:
    """Searches for the good queries, part by part, and shapes the results."""
    results = [
        point_pb2.SearchResult(status=to_status(problems[row])) if row in problems else point_pb2.SearchResult()
        for row in range(len(queries))
    ]
    good = [row for row in range(len(queries)) if row not in problems]
    step = max(1, min(_QUERIES_AT_A_TIME, _HITS_AT_A_TIME // plan.limit))
    size, limit_bytes = 0, backend.config.message_byte_count
    for begin in range(0, len(good), step):
        part = good[begin : begin + step]
        found = await backend.storage.search(
            _find, plan, np.ascontiguousarray(queries[np.array(part, np.intp)]), limit_bytes, size
        )
        for row, result in zip(part, found, strict=True):
            results[row] = result
            size += result.ByteSize()
    return results


def _find(plan: Search, queries: FloatMatrix, limit_bytes: int, size: int) -> list[point_pb2.SearchResult]:
    """The results of some queries, after results of ``size`` bytes. Synchronous and long: runs in a thread."""
    results = []
    for hits in plan.handle.search(
        queries,
        limit=plan.limit,
        score_threshold=plan.score_threshold,
        exact=plan.exact,
        with_payload=plan.with_payload,
        byte_limit=MEMORY_FACTOR * limit_bytes,
    ):
        result = point_pb2.SearchResult()
        for hit in hits:
            found = result.hits.add(id=hit.id, score=hit.score, text=hit.text)
            fill_struct(found.metadata, hit.metadata)
            size += found.ByteSize()
            if size > limit_bytes:
                raise ServiceError(response_too_large(size, limit_bytes))
        results.append(result)
    return results
