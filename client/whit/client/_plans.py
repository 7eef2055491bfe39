"""Every unary method of the clients as a plan: which requests in which order, and what the responses mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from whit.client import _convert as convert
from whit.client import _methods as rpc
from whit.client import _options as opts
from whit.client import _requests as requests
from whit.client._calls import Call, Session
from whit.client._errors import AlreadyExists, NotFound, from_problem
from whit.client._limits import (
    answerable_count,
    invoke_for,
    invoke_in_parts,
    points_batcher,
    query_batcher,
    room,
    within_limits,
)
from whit.client._metadata import utf8
from whit.client._options import collection_name, model_name
from whit.client._split import Batch, Batcher, Entry, refused
from whit.client._steps import Plan
from whit.client._types import (
    Collection,
    DeleteResult,
    EmbedResult,
    Model,
    Point,
    SearchResult,
    ServerInfo,
    Timeout,
    UpsertResult,
    Vectors,
    Verification,
)
from whit.contract.errors import Reason
from whit.contract.names import MODEL_ID_RULE, is_model_id
from whit.contract.wire import ENCODINGS
from whit.v1 import collection_pb2, embedding_pb2, model_pb2, point_pb2


def info(session: Session, timeout: Timeout) -> Plan[ServerInfo]:
    """The server's description, asked for anew."""
    return (yield from Call(session, timeout).server_info(fresh=True))


# ---- models ----


def models(session: Session, timeout: Timeout) -> Plan[list[Model]]:
    """All models, by name."""
    call, found, token = Call(session, timeout), [], ""
    while True:
        response = yield from call.invoke(rpc.LIST_MODELS, model_pb2.ListModelsRequest(page_token=token))
        found += [convert.model(entry) for entry in response.models]
        token = response.next_page_token
        if not token:
            return found


def model(session: Session, name: str, timeout: Timeout) -> Plan[Model]:
    """One model."""
    return (yield from _model(Call(session, timeout), name))


def _model(call: Call, name: str) -> Plan[Model]:
    response = yield from call.invoke(rpc.GET_MODEL, model_pb2.GetModelRequest(name=model_name(name)))
    return convert.model(response.model)


def verify_model(session: Session, name: str, timeout: Timeout) -> Plan[Verification]:
    """How far a model's golden vectors are off now."""
    request = model_pb2.VerifyModelRequest(name=model_name(name))
    return convert.verification((yield from Call(session, timeout).invoke(rpc.VERIFY_MODEL, request)))


# ---- embedding ----


def embed(
    session: Session,
    texts: Iterable[str] | None,
    token_ids: Iterable[Sequence[int]] | None,
    *,
    on_error: str,
    timeout: Timeout,
    **options: Any,
) -> Plan[EmbedResult]:
    """Embeds in as many requests as the limits ask for."""
    raise_errors = opts.raises(on_error)
    config = opts.embed_options(**options)
    given, are_ids = requests.one_of(texts, token_ids)
    items = list(given)
    field, prepare = embed_preparation(are_token_ids=are_ids)
    names = [ENCODINGS[number] for number in config.encodings]
    call = Call(session, timeout)

    def work(about: ServerInfo) -> Plan[list[EmbedResult]]:
        dimension_count = yield from dimensions(call, about, options["model"], config.dimension_count)
        batcher: Batcher[Any] = Batcher(
            prepare,
            item_count=answerable_count(about.limits, dimension_count, names),
            byte_count=room(about.limits, config.ByteSize()),
            field=field,
        )
        parts = []
        for batch in batcher.split(items):
            if batch.refused and not batch.kept:
                parts.append(convert.failed_embed_result(batch, None, dimension_count, names))
                continue
            request = embedding_pb2.EmbedRequest(options=config, **{field: batch.kept})
            response = yield from invoke_for(batch, call, rpc.EMBED, request)
            parts.append(convert.embed_result(response, batch))
        return parts

    result = convert.join_embed_results((yield from within_limits(call, work)))
    if raise_errors:
        convert.raise_item_errors(result)
    return result


def embed_preparation(*, are_token_ids: bool) -> tuple[str, Callable[[Any, int], Entry]]:
    """The field of the items, and what makes one ready to send."""
    return ("token_ids", requests.token_ids_entry) if are_token_ids else ("texts", requests.text_entry)


def dimensions(call: Call, about: ServerInfo, model: str, dimension_count: int) -> Plan[int]:
    """The length of the vectors that a call will get: as asked for, or the model's own."""
    if dimension_count:
        return dimension_count
    known = next((entry for entry in about.models if entry.name == model), None)
    if known is None:
        _check_model(model)
        known = yield from _model(call, model)  # raises NotFound, in the server's words
    return known.dimension_count


def _check_model(model: str) -> None:
    """Refuses what no model can be called, as the server would, but by the name of the argument."""
    if not is_model_id(model):
        raise refused(Reason.INVALID_REQUEST, "model", f"must be {MODEL_ID_RULE}; got {model[:80]!r}")


# ---- collections ----


def create_collection(
    session: Session,
    name: str,
    *,
    model: str,
    storage: str,
    dimension_count: int | None,
    exist_ok: bool,
    timeout: Timeout,
) -> Plan[Collection]:
    """Makes a collection, or with ``exist_ok`` returns the one that is there if it is what was asked for."""
    wanted = collection_pb2.Collection(
        name=collection_name(name),
        model=model_name(model),
        storage=opts.storage(storage),
        dimension_count=opts.positive(dimension_count, "dimension_count"),
    )
    call, found = Call(session, timeout), None
    while found is None:
        try:
            response = yield from call.invoke(
                rpc.CREATE_COLLECTION, collection_pb2.CreateCollectionRequest(collection=wanted)
            )
            return convert.collection(response.collection)
        except AlreadyExists as error:
            if not exist_ok:
                raise
            refusal = error.problem
        with suppress(NotFound):  # somebody deleted it in between
            found = yield from _collection(call, name)
    loaded = yield from _model(call, model)
    is_same = (found.fingerprint, found.storage) == (loaded.fingerprint, storage)
    if not is_same or dimension_count not in (None, found.dimension_count):
        message = (
            f"collection {name!r} exists with model {found.model!r} ({found.fingerprint[:19]}…), storage {found.storage!s} "
            f"and dimension_count {found.dimension_count}; asked for was model {model!r} ({loaded.fingerprint[:19]}…), "
            f"storage {storage} and dimension_count {dimension_count or loaded.dimension_count}; choose another name"
        )
        raise from_problem(replace(refusal, message=message))
    return found


def collections(session: Session, timeout: Timeout) -> Plan[list[Collection]]:
    """All collections, by name."""
    call, found, token = Call(session, timeout), [], ""
    while True:
        request = collection_pb2.ListCollectionsRequest(page_token=token)
        response = yield from call.invoke(rpc.LIST_COLLECTIONS, request)
        found += [convert.collection(entry) for entry in response.collections]
        token = response.next_page_token
        if not token:
            return found


def collection(session: Session, name: str, timeout: Timeout) -> Plan[Collection]:
    """One collection."""
    return (yield from _collection(Call(session, timeout), name))


def _collection(call: Call, name: str) -> Plan[Collection]:
    request = collection_pb2.GetCollectionRequest(name=collection_name(name))
    return convert.collection((yield from call.invoke(rpc.GET_COLLECTION, request)).collection)


def delete_collection(session: Session, name: str, timeout: Timeout) -> Plan[int]:
    """Removes a collection; returns how many points went with it."""
    request = collection_pb2.DeleteCollectionRequest(name=collection_name(name))
    return (yield from Call(session, timeout).invoke(rpc.DELETE_COLLECTION, request)).deleted_point_count


# ---- points ----


def upsert(
    session: Session,
    collection: str,
    ids: Sequence[str],
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    vectors: Vectors | ArrayLike | None,
    *,
    role: str | None,
    on_overflow: str,
    on_error: str,
    timeout: Timeout,
) -> Plan[UpsertResult]:
    """Writes points in as many requests as the limits ask for."""
    raise_errors = opts.raises(on_error)
    points = requests.points_of(ids, texts, metadata, vectors)
    name, policy = collection_name(collection), opts.overflow(on_overflow)
    call = Call(session, timeout)
    prepare = requests.once_only(point.id for point in points)
    overhead = len(name) + len(opts.role_name(role).encode())

    def work(about: ServerInfo) -> Plan[list[UpsertResult]]:
        parts = []
        batcher = points_batcher(about.limits, about.limits.batch_item_count, prepare, overhead)
        for batch in batcher.split(points):
            if batch.refused and not batch.kept:
                parts.append(convert.failed_upsert_result(batch, None))
                continue
            request = point_pb2.UpsertRequest(
                collection=name,
                role=opts.role_name(role),
                on_overflow=policy,
                **requests.points_and_vectors(batch.kept),
            )
            response = yield from invoke_for(batch, call, rpc.UPSERT, request)
            parts.append(convert.upsert_result(response, batch))
        return parts

    parts = yield from within_limits(call, work)
    result = UpsertResult([item for part in parts for item in part.items], max(part.sequence for part in parts))
    if raise_errors:
        convert.raise_item_errors(result)
    return result


def _checked_ids(ids: Iterable[str]) -> list[str]:
    wanted = list(requests.sequence_of(ids, "ids", ordered=False))
    for place, id_ in enumerate(wanted):
        if not isinstance(id_, str):
            raise TypeError(f"ids[{place}] must be str, got {type(id_).__name__}; write str(…)")
        utf8(id_, f"ids[{place}]")
    return wanted


def _id_batches(ids: list[str], count: int) -> Iterator[Batch]:
    for start in range(0, max(1, len(ids)), count):
        yield Batch("ids", start, ids[start : start + count])


def get(
    session: Session, collection: str, ids: Sequence[str], with_vectors: bool, timeout: Timeout
) -> Plan[list[Point]]:
    """The points of those ids that are there, in the order asked for."""
    name, wanted, call = collection_name(collection), _checked_ids(ids), Call(session, timeout)

    def request(batch: Batch) -> point_pb2.GetRequest:
        return point_pb2.GetRequest(collection=name, ids=batch.kept, with_vectors=with_vectors)

    def work(about: ServerInfo) -> Plan[list[Point]]:
        found: list[Point] = []
        for batch in _id_batches(wanted, about.limits.batch_item_count):
            for _, response in (yield from invoke_in_parts(batch, call, rpc.GET, request)):
                found += convert.points(response)
        return found

    return (yield from within_limits(call, work))


def delete(session: Session, collection: str, ids: Sequence[str], timeout: Timeout) -> Plan[DeleteResult]:
    """Deletes points."""
    name, wanted, call = collection_name(collection), _checked_ids(ids), Call(session, timeout)
    deleted, sequence = 0, 0
    missing: dict[str, None] = {}
    earlier: set[str] = set()  # of the batches before: what they deleted was there

    def work(about: ServerInfo) -> Plan[None]:
        nonlocal deleted, sequence
        for batch in _id_batches(wanted, about.limits.batch_item_count):
            request = point_pb2.DeleteRequest(collection=name, ids=batch.kept)
            response = yield from invoke_for(batch, call, rpc.DELETE, request)
            deleted += response.deleted_count
            missing.update(dict.fromkeys(id_ for id_ in response.missing_ids if id_ not in earlier))
            earlier.update(batch.kept)
            sequence = response.sequence

    yield from within_limits(call, work)
    return DeleteResult(deleted, tuple(missing), sequence)


def count(session: Session, collection: str, timeout: Timeout) -> Plan[int]:
    """How many points a collection has."""
    request = point_pb2.CountRequest(collection=collection_name(collection))
    return (yield from Call(session, timeout).invoke(rpc.COUNT, request)).count


# ---- search ----


def search(session: Session, queries: Iterable[Any], *, timeout: Timeout, **options: Any) -> Plan[list[SearchResult]]:
    """Answers queries in as many requests as the limits ask for; failed ones are returned."""
    config = opts.search_options(**options)
    asked, call = list(queries), Call(session, timeout)

    def request(batch: Batch) -> point_pb2.SearchRequest:
        return point_pb2.SearchRequest(options=config, **requests.queries(batch.kept))

    def work(about: ServerInfo) -> Plan[list[SearchResult]]:
        results: list[SearchResult] = []
        for batch in query_batcher(about.limits, about.limits.batch_item_count, config.ByteSize()).split(asked):
            if batch.refused and not batch.kept:
                results += convert.failed_search_results(batch, None)
                continue
            for part, response in (yield from invoke_in_parts(batch, call, rpc.SEARCH, request)):
                results += convert.search_results(response, part)
        return results

    return (yield from within_limits(call, work))


def search_one(session: Session, query: str | ArrayLike, *, timeout: Timeout, **options: Any) -> Plan[SearchResult]:
    """Answers one query.

    Raises:
        WhitError: what the query failed with.
    """
    [result] = yield from search(session, [query], timeout=timeout, **options)
    if result.error is not None:
        raise result.error
    return result


def search_batch(
    session: Session, queries: Iterable[str] | Vectors | ArrayLike, *, on_error: str, timeout: Timeout, **options: Any
) -> Plan[list[SearchResult]]:
    """Answers many queries."""
    raise_errors = opts.raises(on_error)
    results = yield from search(session, requests.many_queries(queries), timeout=timeout, **options)
    if raise_errors:
        convert.raise_search_errors(results)
    return results
