# ruff: noqa: N818 - the errors have the names of the statuses they stand for
"""Everything the clients raise about a call.

    WhitError
    ├── InvalidRequest       a field is wrong; .violations says which and why      (also a ValueError)
    ├── NotFound             no such model or collection
    ├── AlreadyExists        the collection is there already
    ├── FailedPrecondition   not in this state: another package filled the collection, no permission
    ├── ResourceExhausted    too much work waiting, a message too large, the disk full
    ├── DeadlineExceeded     the timeout passed                                    (also a TimeoutError)
    ├── Unavailable          no server answered, it shuts down, a stream was idle  (also a ConnectionError)
    ├── Cancelled            the call was cancelled or the client closed
    ├── Unimplemented        the server does not know the method or feature
    ├── InternalError        a defect, or a failure of the server's disk
    └── ItemErrors           some items of a batch failed; .result has the others, .errors tells why by index

``reason`` is what a program branches on (``whit.contract.errors.Reason``); ``str(error)`` is one line for a person. Misuse that no
server needs to see (ids and texts of different length, an unknown encoding) is a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_status import rpc_status

from whit.contract.errors import RESPONSE_BYTE_COUNT, FieldViolation, Problem, Reason, from_status, general_reason


class WhitError(Exception):
    """A call, or one item of it, was refused or failed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    @property
    def reason(self) -> Reason:
        """Why, for a program to branch on."""
        return self.problem.reason

    @property
    def message(self) -> str:
        """Why, for a person, as the server said it."""
        return self.problem.message

    @property
    def violations(self) -> Sequence[FieldViolation]:
        """The fields that are wrong, each with its path in the request, such as ``texts[3]``."""
        return self.problem.violations

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts that belong to the reason, such as the name of the model."""
        return self.problem.metadata

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the same call may succeed; None if the server does not say."""
        return self.problem.retry_after_s

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return self.problem.status_code

    def __str__(self) -> str:
        message = " ".join(self.problem.message.split()) or f"the server gave no message ({self.code.name})"
        unsaid = [v for v in self.violations if v.description not in message]
        shown = "; ".join(f"{v.field}: {v.description}" for v in unsaid[:3])
        more = f"; and {len(unsaid) - 3} more" if len(unsaid) > 3 else ""
        return f"{message} [{shown}{more}]" if shown else message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason}: {self})"


class InvalidRequest(WhitError, ValueError):
    """A field of the request is missing, out of range or of the wrong form."""


class NotFound(WhitError):
    """The model or collection is not on this server."""


class AlreadyExists(WhitError):
    """A collection of that name is there already."""


class FailedPrecondition(WhitError):
    """The call is sound, but not now or not here: the collection belongs to another package, or access is refused."""


class ResourceExhausted(WhitError):
    """Too much of something: queued work (of a whit server, with ``retry_after_s``), bytes in a message, data on the disk."""


class DeadlineExceeded(WhitError, TimeoutError):
    """The call was not done when its timeout passed."""


class Unavailable(WhitError, ConnectionError):
    """No server answered, the connection broke, the server is shutting down, or it ended a stream that was idle."""


class Cancelled(WhitError):
    """The call was cancelled: by closing the client, or by the server."""


class Unimplemented(WhitError):
    """The server does not know the method or the feature."""


class InternalError(WhitError):
    """A defect, or a failure of the server's disk. The server's log says more."""


class ItemErrors(WhitError):
    """Some items failed and the others went well.

    Attributes:
        result: what the call returns with ``on_error="return"``, failed items included; of a stream, its last batch.
        errors: index in ``result`` of each failed item -> its error.
        start: place of the first item of ``result`` in what was given; 0 unless it is a batch of a stream.
    """

    def __init__(self, result: Any, errors: Mapping[int, WhitError], start: int = 0) -> None:
        index, first = next(iter(errors.items()))
        message = (
            f"{len(errors)} of {len(result)} items failed; the first is number {index + start}: {first} "
            "(.result of this error has the others)"
        )
        super().__init__(replace(first.problem, message=message, violations=()))
        self.args = (result, errors, start)
        self.result = result
        self.errors = errors
        self.start = start


ERRORS_BY_CODE: Mapping[grpc.StatusCode, type[WhitError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.OK: InternalError,  # an error that says OK is a defect of whoever sent it
}


def from_problem(problem: Problem) -> WhitError:
    """The error of the class that belongs to the problem's gRPC code."""
    return ERRORS_BY_CODE[problem.status_code](problem)


def from_item_status(status: status_pb2.Status, place: Callable[[int], int], field: str) -> WhitError:
    """The error of one item; ``place`` and ``field`` are as in ``renumbered``."""
    return from_problem(in_python(renumbered(from_status(status), place, field)))


def from_rpc_error(error: grpc.RpcError, *, address: str, method: str, timeout: float | None) -> WhitError:
    """The error of a call. ``error`` also is the call (grpc) or has its words (grpc.aio: AioRpcError)."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the details contradict the code or the message: believe the code
        status = None
    if status is not None:
        return from_problem(in_python(from_status(status)))
    code, details = call.code(), " ".join((call.details() or "").split())
    problem = Problem(general_reason(code), _words(code, details, address, method, timeout), code=code)
    return from_problem(_with_limit(problem, details) if code is grpc.StatusCode.RESOURCE_EXHAUSTED else problem)


def deadline_problem(address: str, method: str, timeout: float | None) -> Problem:
    """A call that was not done in time."""
    return Problem(Reason.DEADLINE_EXCEEDED, _words(grpc.StatusCode.DEADLINE_EXCEEDED, "", address, method, timeout))


def renumbered(problem: Problem, place: Callable[[int], int], field: str) -> Problem:
    """``problem`` with the items named as the user knows them, in message and violations.

    Args:
        problem: what the server said about a request or about a batch of a stream.
        place: number of an item in the request -> its place in what the user gave.
        field: what the user calls the items that a stream calls ``batch.items``.
    """

    def reword(text: str) -> str:
        return _ITEM_PATH.sub(
            lambda found: f"{field if found[1] == 'items' else found[1]}[{place(int(found[2]))}]", text
        )

    return _reworded(problem, reword)


def in_python(problem: Problem) -> Problem:
    """``problem`` in words of this client: what is 0 on the wire is left out here, and refused; names have no ``models/``."""

    def reword(text: str) -> str:
        text = _RESOURCE.sub(r"\1", text)
        for wire, python in _IN_PYTHON.items():
            text = text.replace(wire, python)
        return text

    return _reworded(problem, reword)


def _reworded(problem: Problem, reword: Callable[[str], str]) -> Problem:
    violations = tuple(FieldViolation(reword(v.field), reword(v.description)) for v in problem.violations)
    return replace(problem, message=reword(problem.message), violations=violations)


_IN_PYTHON = {
    "on_overflow=TRUNCATE": 'on_overflow="truncate"',
    "must be 0, for": "must be left out, for",
    ", or 0 for": ", or left out for",
}


_RESOURCE = re.compile(r"'(?:models|collections)/NAME' where NAME is |(got ')(?:models|collections)/")


_ITEM_PATH = re.compile(r"\b(?:batch\.)?(texts|token_ids|points|ids|vectors|items)\[(\d+)\]")


_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "not in peer certificate")
_UNREACHABLE = ("failed to connect", "dns resolution failed", "name resolution", "domain name not found")


def _words(code: grpc.StatusCode, details: str, address: str, method: str, timeout: float | None) -> str:
    """What to tell a person about a status that carries no details of ours, so was made by gRPC or a proxy."""
    match code:
        case grpc.StatusCode.UNAVAILABLE if any(words in details for words in _UNTRUSTED):
            return (
                f"the certificate of {address} is not to be trusted here; make credentials from that of its authority, "
                f"with grpc.ssl_channel_credentials(root_certificates), and use a name that is in it ({details})"
            )
        case grpc.StatusCode.UNAVAILABLE if "handshake failed" in details:
            return f"{address} does not speak TLS, or another version of it; leave credentials out if it has none ({details})"
        case grpc.StatusCode.UNAVAILABLE if any(words in details.lower() for words in _UNREACHABLE):
            return f"no server answered at {address}; start one with: whit serve --models DIR ({details})"
        case grpc.StatusCode.UNAVAILABLE:
            return f"the connection to {address} broke ({details}); see whether the server still runs, then try again"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            limit = "its timeout" if timeout is None else f"timeout={timeout:g} s"
            return f"{method} at {address} was not done within {limit}; give a larger timeout, or None for no limit"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return f"{method} at {address}: {_exhausted(details)}"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} does not know {method} ({details}); it is no whit server, or an older one: upgrade it"
        case grpc.StatusCode.CANCELLED:
            return f"{method} at {address} was cancelled ({details}); if you did not close the client, try again"
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return f"{address} refused access to {method} ({details}); ask whoever runs it or the proxy before it"
        case _:
            return f"{method} at {address} failed with {code.name} ({details}); the server's log may say more"


_OVER_MAX = re.compile(r"(Received|Sent) message larger than max \((\d+) vs\. (\d+)\)")


_TOO_MANY_CALLS = "Concurrent RPC limit exceeded"  # gRPC's words for a call that no handler saw


def _exhausted(details: str) -> str:
    """What to do about a bound of the server's or of a proxy; the client has none of its own."""
    if _TOO_MANY_CALLS in details:
        return "the server has as many calls as it takes; make fewer at a time, or try again later"
    found = _OVER_MAX.search(details)
    if found is None:
        return f"{details}; send less at a time, or try again later"
    what, todo = ("request", "send fewer items at a time, or shorter ones")
    if found[1] == "Sent":
        what, todo = ("answer", "ask for less at a time")
    return (
        f"the {what} has {found[2]} bytes, a message of this server holds {found[3]} (message_byte_count); {todo}, or "
        f"start it with a larger --message-byte-count"
    )


def _with_limit(problem: Problem, details: str) -> Problem:
    """``problem`` with the reason that gRPC itself had to exhaust a resource: a call too many, or too large a message."""
    if _TOO_MANY_CALLS in details:
        return replace(problem, retry_after_s=0.5)
    found = _OVER_MAX.search(details)
    if found is None:
        return problem
    metadata = {RESPONSE_BYTE_COUNT: found[2]} if found[1] == "Sent" else {}
    return replace(problem, reason=Reason.INVALID_REQUEST, metadata=metadata)
