"""The one exception with which engine, index and service refuse a call, and the few ways to make it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

from whit.contract.errors import RESPONSE_BYTE_COUNT, FieldViolation, Problem, Reason

_logger = logging.getLogger(__name__)


class ServiceError(Exception):
    """A call was refused. ``problem`` says why, in the words of the contract; it becomes the gRPC status."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def refusal(violations: Sequence[FieldViolation], reason: Reason = Reason.INVALID_REQUEST) -> ServiceError:
    """Refuses a request for all of its bad fields (at least one) at once; the message is about the first."""
    first, more = violations[0], len(violations) - 1
    tail = f" (and {more} more, see the field violations)" if more else ""
    return ServiceError(Problem(reason, f"{first.field}: {first.description}{tail}", tuple(violations)))


def response_too_large(size: int, limit_bytes: int) -> Problem:
    """The answer does not fit into a message."""
    return Problem(
        Reason.INVALID_REQUEST,
        f"the response would have {size} bytes or more, a message may have {limit_bytes} (message_byte_count); "
        "ask for fewer items, hits or encodings at a time, for hits without payload, or start the server with a larger --message-byte-count",
        metadata={"message_byte_count": str(limit_bytes), RESPONSE_BYTE_COUNT: str(size)},
    )


def defect(error: BaseException, where: str) -> Problem:
    """Logs a defect of the server with its traceback, and returns what its caller may know: where to look for it."""
    request_id = secrets.token_hex(8)
    _logger.error("defect in %s: %r", where, error, exc_info=error, extra={"fields": {"request_id": request_id}})
    return Problem(
        Reason.INTERNAL,
        f"internal error; the server's log has the traceback under request id {request_id}. Report it with those lines",
        metadata={"request_id": request_id},
    )
