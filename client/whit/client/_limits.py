"""What the server's limits mean for a call: how it is split, and that it is split anew where they have changed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from whit.client import _requests as requests
from whit.client._calls import Call
from whit.client._errors import WhitError, from_problem, renumbered
from whit.client._methods import Method, Request, Response
from whit.client._split import Batch, Batcher, Entry
from whit.client._steps import Plan
from whit.client._types import Limits, Point, ServerInfo
from whit.contract.errors import RESPONSE_BYTE_COUNT, Problem, Reason
from whit.contract.vectors import Encoding

T = TypeVar("T")

_MARGIN_BYTES = 1024  # of a message, for what is not items: names, counts, timing
_ANSWER_ITEM_BYTES = 512  # bounds an item's answer besides vectors; most of it is room for an error


def within_limits(call: Call, work: Callable[[ServerInfo], Plan[T]]) -> Plan[T]:
    """Does ``work`` within the server's limits as they are known; where it is refused and they are others by now, anew."""
    about = yield from call.server_info()
    try:
        return (yield from work(about))
    except WhitError as error:
        if error.reason is not Reason.INVALID_REQUEST:
            raise
        now = yield from call.server_info()  # forgotten, for the refusal may mean that they changed
        if now.limits == about.limits:
            raise error from None
    return (yield from work(now))


def invoke_for(batch: Batch, call: Call, method: Method[Request, Response], request: Request) -> Plan[Response]:
    """Sends a batch; an error names the user's own items."""
    try:
        return (yield from call.invoke(method, request))
    except WhitError as error:
        if batch.start == 0 and not batch.refused:
            raise
        renamed = from_problem(renumbered(error.problem, batch.place, batch.field))
    raise renamed


def invoke_in_parts(
    batch: Batch, call: Call, method: Method[Request, Response], request: Callable[[Batch], Request]
) -> Plan[list[tuple[Batch, Response]]]:
    """Sends a batch, in halves where the answer to all of it would fit into no message; returns the parts with their answers."""
    try:
        return [(batch, (yield from invoke_for(batch, call, method, request(batch))))]
    except WhitError as error:
        if RESPONSE_BYTE_COUNT not in error.metadata or len(batch.kept) < 2:
            raise
    first, second = batch.halves()
    answered = yield from invoke_in_parts(first, call, method, request)
    return answered + (yield from invoke_in_parts(second, call, method, request))


def room(limits: Limits, overhead_bytes: int) -> int:
    """Bytes of a message that are left for items.

    Raises:
        InvalidRequest: the options leave none.
    """
    left = limits.message_byte_count - overhead_bytes - _MARGIN_BYTES
    if overhead_bytes and left < 1:
        said = f"the options have {overhead_bytes} bytes, a message of this server holds {limits.message_byte_count}"
        words = f"{said} (message_byte_count); give a shorter role or instruction"
        raise from_problem(Problem(Reason.INVALID_REQUEST, words))
    return max(1, left)


def answerable_count(limits: Limits, dimension_count: int, encodings: Iterable[Encoding]) -> int:
    """Items in a batch, by the server's limit and by what the message with their vectors can hold."""
    item_bytes = _ANSWER_ITEM_BYTES + sum(e.row_bytes(dimension_count) + 4 * e.scale_count for e in encodings)
    return max(1, min(limits.batch_item_count, room(limits, 0) // item_bytes))


def points_batcher(
    limits: Limits,
    item_count: int,
    prepare: Callable[[Point, int], Entry] = requests.point_entry,
    overhead_bytes: int = 0,
) -> Batcher[Point]:
    """Splits points."""
    return Batcher(
        prepare,
        item_count=min(item_count, answerable_count(limits, 0, ())),
        byte_count=room(limits, overhead_bytes),
        field="points",
    )


def query_batcher(limits: Limits, item_count: int, overhead_bytes: int) -> Batcher[Any]:
    """Splits queries."""
    return Batcher(
        requests.query_entry,
        item_count=min(item_count, limits.batch_item_count),
        byte_count=room(limits, overhead_bytes),
    )
