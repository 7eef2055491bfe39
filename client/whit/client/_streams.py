"""Every streaming method of the clients as a plan: a window of batches in flight, results in order.

The user's iterable is pulled only while fewer batches than the window are unanswered, and only if no answer is waiting
to be handed over, so a slow server holds back the source and a slow user holds back both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import Message

from whit.client import _convert as convert
from whit.client import _limits as limits
from whit.client import _methods as rpc
from whit.client import _options as opts
from whit.client import _plans as plans
from whit.client import _requests as requests
from whit.client._calls import Call, Session
from whit.client._errors import WhitError, from_item_status, from_problem
from whit.client._methods import Method
from whit.client._options import collection_name
from whit.client._split import Batch, Batcher
from whit.client._steps import END, HALF_CLOSE, PULL, READY, Emit, Open, Plan, Receive, Send, Sleep, StreamPlan
from whit.client._types import EmbedResult, SearchResult, ServerInfo, Timeout, UpsertResult
from whit.contract.errors import Problem, Reason
from whit.contract.wire import ENCODINGS
from whit.v1 import embedding_pb2, point_pb2

_MAX_WINDOW = 32
"""Batches in flight at most, however many the server would take."""


@dataclass(frozen=True)
class Stream:
    """What differs between the streaming methods.

    Attributes:
        method: the method.
        config: its first message.
        batcher: splits the user's items.
        window: batches that may be unanswered at a time.
        raise_errors: whether a failure ends the stream; if not, it is given to the items.
        pack: the items of a batch -> message.
        results: batch, its answer -> what the user gets.
        failures: batch, why it failed or None if none of its items was sent -> what the user gets.
    """

    method: Method[Any, Any]
    config: Message
    batcher: Batcher[Any]
    window: int
    raise_errors: bool
    pack: Callable[[Sequence[Any]], Message]
    results: Callable[[Batch, Any], Iterable[Any]]
    failures: Callable[[Batch, WhitError | None], Iterable[Any]]


def window(about: ServerInfo) -> int:
    """One batch more than the server works on, so that the next is there when one is done."""
    return min(_MAX_WINDOW, about.limits.stream_window_count + 1)


class _Run:
    """One stream on its way: what was sent and not answered, and whether it may still be opened again."""

    def __init__(self, call: Call, stream: Stream) -> None:
        self._call, self._stream = call, stream
        self._waiting: deque[tuple[Batch, Message | None]] = deque()  # None: nothing of the batch is sent
        self._is_open = self._is_exhausted = False
        self._answered_item_count = 0
        self._has_answers, self._attempt = False, 0

    def steps(self) -> StreamPlan:
        """Runs the stream."""
        while True:
            if self._waiting and self._waiting[0][1] is None:
                batch, _ = self._waiting.popleft()
                yield from self._emit(batch, self._stream.failures(batch, None))
            elif self._has_room() and not (self._waiting and (yield READY)):
                yield from self._pull()
            elif self._waiting:
                yield from self._receive()
            else:
                break
        if self._is_open:
            yield from self._end()

    def _has_room(self) -> bool:
        return not self._is_exhausted and len(self._waiting) < self._stream.window

    def _pull(self) -> StreamPlan:
        item = yield PULL
        if item is END:
            self._is_exhausted = True
            batch = self._stream.batcher.flush()
        else:
            batch = self._stream.batcher.add(item)
        if batch is not None:
            message = self._stream.pack(batch.kept) if batch.kept else None
            self._waiting.append((batch, message))
            if message is not None:
                yield from self._send(message)
        if self._is_exhausted and self._is_open:
            yield HALF_CLOSE

    def _send(self, message: Message) -> StreamPlan:
        if not self._is_open:
            yield Open(self._stream.method)
            yield Send(self._stream.config)
            self._is_open = True
        yield Send(message)

    def _receive(self) -> StreamPlan:
        try:
            reply = yield Receive(self._call.timeout)
        except WhitError as error:
            yield from self._open_again(error)
            return
        if reply is END:
            raise self._broken(Problem(Reason.INTERNAL, "the server ended the stream with batches unanswered"))
        self._has_answers, self._attempt = True, 0
        batch, _ = self._waiting.popleft()
        if reply.status.code:
            failure = from_item_status(reply.status, batch.place, batch.field)
            self._call.session.note(failure)
            if self._stream.raise_errors:
                raise failure
            yield from self._emit(batch, self._stream.failures(batch, failure))
        else:
            yield from self._emit(batch, self._stream.results(batch, reply))

    def _emit(self, batch: Batch, results: Iterable[Any]) -> StreamPlan:
        self._answered_item_count += len(batch)
        for result in results:
            yield Emit(result)

    def _open_again(self, error: WhitError) -> StreamPlan:
        """Begins anew if trying again can help and nothing was answered yet, or all went well but we were idle; what waits is sent again."""
        self._attempt += 1
        try:
            if self._has_answers and error.reason is not Reason.STREAM_IDLE:
                raise error
            delay = self._call.delay_or_raise(error, self._attempt, limited=False)
        except WhitError:
            raise (self._broken(error.problem) if self._has_answers else error) from None
        yield Sleep(delay)
        self._is_open = False
        for _, message in list(self._waiting):
            if message is not None:
                yield from self._send(message)
        if self._is_exhausted:
            yield HALF_CLOSE

    def _end(self) -> StreamPlan:
        """Waits for the server to end the stream too. All is answered, so how it ends changes nothing."""
        try:
            yield Receive(self._call.timeout)
        except WhitError:
            return

    def _broken(self, problem: Problem) -> WhitError:
        note = f"{problem.message}; the stream broke after its first {self._answered_item_count} items were answered"
        return from_problem(replace(problem, message=note))


def _run(call: Call, prepare: Plan[Stream]) -> StreamPlan:
    stream = yield from prepare
    yield from _Run(call, stream).steps()


def _batch_size(batch_size: int) -> int:
    if opts.whole(batch_size, "batch_size") < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    return batch_size


def embed(
    session: Session, *, are_token_ids: bool, batch_size: int, on_error: str, timeout: Timeout, **options: Any
) -> StreamPlan:
    """Embeds a stream; emits an ``EmbedResult`` a batch."""
    raise_errors, count = opts.raises(on_error), _batch_size(batch_size)
    config = opts.embed_options(**options)
    names = [ENCODINGS[number] for number in config.encodings]
    field, prepare = plans.embed_preparation(are_token_ids=are_token_ids)
    call = Call(session, timeout)

    def plan() -> Plan[Stream]:
        about = yield from call.server_info(fresh=True)
        dimension_count = yield from plans.dimensions(call, about, options["model"], config.dimension_count)

        fingerprints: set[str] = set()

        def checked(batch: Batch, result: EmbedResult) -> list[EmbedResult]:
            convert.check_one_package(fingerprints, result)
            if raise_errors:
                convert.raise_item_errors(result, batch.start)
            return [result]

        return Stream(
            method=rpc.STREAM_EMBED,
            config=embedding_pb2.StreamEmbedRequest(config=config),
            batcher=Batcher(
                prepare,
                item_count=min(count, limits.answerable_count(about.limits, dimension_count, names)),
                byte_count=limits.room(about.limits, config.ByteSize()),
                field=field,
            ),
            window=window(about),
            raise_errors=raise_errors,
            pack=lambda kept: requests.stream_embed_batch(kept, are_token_ids=are_token_ids),
            results=lambda batch, reply: checked(batch, convert.embed_result(reply, batch)),
            failures=lambda batch, error: checked(
                batch, convert.failed_embed_result(batch, error, dimension_count, names)
            ),
        )

    return _run(call, plan())


def upsert(
    session: Session,
    collection: str,
    *,
    batch_size: int,
    role: str | None,
    on_overflow: str,
    on_error: str,
    timeout: Timeout,
) -> StreamPlan:
    """Writes a stream of points; emits an ``UpsertResult`` a batch."""
    raise_errors, count = opts.raises(on_error), _batch_size(batch_size)
    config = point_pb2.StreamUpsertConfig(
        collection=collection_name(collection), role=opts.role_name(role), on_overflow=opts.overflow(on_overflow)
    )
    call = Call(session, timeout)

    def checked(batch: Batch, result: UpsertResult) -> list[UpsertResult]:
        if raise_errors:
            convert.raise_item_errors(result, batch.start)
        return [result]

    def pack(kept: Sequence[Any]) -> Message:
        return point_pb2.StreamUpsertRequest(batch=point_pb2.StreamUpsertBatch(**requests.points_and_vectors(kept)))

    def plan() -> Plan[Stream]:
        about = yield from call.server_info(fresh=True)
        return Stream(
            method=rpc.STREAM_UPSERT,
            config=point_pb2.StreamUpsertRequest(config=config),
            batcher=limits.points_batcher(about.limits, count, overhead_bytes=config.ByteSize()),
            window=window(about),
            raise_errors=raise_errors,
            pack=pack,
            results=lambda batch, reply: checked(batch, convert.upsert_result(reply, batch)),
            failures=lambda batch, error: checked(batch, convert.failed_upsert_result(batch, error)),
        )

    return _run(call, plan())


def search(session: Session, *, batch_size: int, on_error: str, timeout: Timeout, **options: Any) -> StreamPlan:
    """Answers a stream of queries; emits a ``SearchResult`` a query."""
    raise_errors, count = opts.raises(on_error), _batch_size(batch_size)
    config = opts.search_options(**options)
    call = Call(session, timeout)

    def checked(results: Iterable[SearchResult]) -> Iterator[SearchResult]:
        for result in results:
            if raise_errors and result.error is not None:
                raise result.error
            yield result

    def plan() -> Plan[Stream]:
        about = yield from call.server_info(fresh=True)
        return Stream(
            method=rpc.STREAM_SEARCH,
            config=point_pb2.StreamSearchRequest(config=config),
            batcher=limits.query_batcher(about.limits, count, config.ByteSize()),
            window=window(about),
            raise_errors=raise_errors,
            pack=lambda kept: point_pb2.StreamSearchRequest(
                batch=point_pb2.StreamSearchBatch(**requests.queries(kept))
            ),
            results=lambda batch, reply: checked(convert.search_results(reply, batch)),
            failures=lambda batch, error: checked(convert.failed_search_results(batch, error)),
        )

    return _run(call, plan())
