"""The one table of errors, used by the server to make a ``google.rpc.Status`` and by the client to read one.

A reason is what a program branches on; the gRPC code follows from it; the message is for a person and says what to do
next. Follows AIP-193 (https://google.aip.dev/193): every status carries ``ErrorInfo``, field errors carry
``BadRequest`` with paths such as ``texts[3]``, and what may be retried carries ``RetryInfo``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "whit"


class Reason(enum.StrEnum):
    """Why a call or an item was refused. The names are stable: programs may compare them."""

    INVALID_REQUEST = "INVALID_REQUEST"  # a field is missing, out of range or of the wrong form
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"  # the bytes are not the protobuf message that the method takes
    EMPTY_TEXT = "EMPTY_TEXT"
    TEXT_TOO_LONG = "TEXT_TOO_LONG"  # more tokens or bytes than allowed
    INVALID_VECTOR = "INVALID_VECTOR"  # wrong length, NaN, infinite or zero
    DUPLICATE_ID = "DUPLICATE_ID"  # an id twice in one batch
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    COLLECTION_EXISTS = "COLLECTION_EXISTS"
    FINGERPRINT_MISMATCH = "FINGERPRINT_MISMATCH"  # the collection was filled by another package
    QUEUE_FULL = "QUEUE_FULL"  # too much work waiting; retry later
    MEMORY_LOW = "MEMORY_LOW"  # the server is near its memory limit and takes no large or bulk work; retry later
    STORAGE_FULL = "STORAGE_FULL"  # no room on disk; retrying alone does not help
    STORAGE_FAILED = "STORAGE_FAILED"  # reading or writing the collection failed
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    SHUTTING_DOWN = "SHUTTING_DOWN"  # the server is stopping; retry against another or later
    STREAM_IDLE = "STREAM_IDLE"  # the client of a stream sent nothing, or took no answer, for too long; open another
    UNREACHABLE = "UNREACHABLE"  # set by the client: no server answered
    UNIMPLEMENTED = "UNIMPLEMENTED"  # the server does not know the method or the feature
    INTERNAL = "INTERNAL"  # a defect; the server's log has the traceback under the request id


RESPONSE_BYTE_COUNT = "response_byte_count"
"""Key in the metadata of an error that says: the answer fits into no message, so ask for less at a time."""

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED_MESSAGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.EMPTY_TEXT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TEXT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_VECTOR: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DUPLICATE_ID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.COLLECTION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.COLLECTION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.FINGERPRINT_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MEMORY_LOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_FAILED: grpc.StatusCode.INTERNAL,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.STREAM_IDLE: grpc.StatusCode.UNAVAILABLE,
    Reason.UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}

_NUMBER_TO_CODE: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request, such as ``points[3].id``, and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as data: what a ``google.rpc.Status`` carries, without protobuf.

    ``retry_after_s`` is set only where trying the same call again can help.
    """

    reason: Reason
    message: str
    violations: Sequence[FieldViolation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    code: grpc.StatusCode | None = None  # as received; None means the reason's own

    @property
    def status_code(self) -> grpc.StatusCode:
        """The gRPC code."""
        return self.code or CODES[self.reason]


def to_status(problem: Problem) -> status_pb2.Status:
    """Packs a problem into a ``google.rpc.Status`` with ErrorInfo, BadRequest and RetryInfo as they apply."""
    info = error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN)
    if problem.metadata:
        info.metadata.update(problem.metadata)
    details = [_pack(info)]
    if problem.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in problem.violations
        ]
        details.append(_pack(error_details_pb2.BadRequest(field_violations=violations)))
    if problem.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(problem.retry_after_s * 1e6))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=problem.status_code.value[0], message=problem.message, details=details)


def from_status(status: status_pb2.Status) -> Problem:
    """Unpacks a ``google.rpc.Status``. A reason this version does not know becomes the code's general one."""
    code = _NUMBER_TO_CODE.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, metadata, violations, retry_after_s = general_reason(code), {}, [], None
    for detail in status.details:
        match _unpack(detail):
            case error_details_pb2.ErrorInfo() as info:
                metadata = dict(info.metadata)
                if info.domain == DOMAIN and info.reason in Reason.__members__:
                    reason = Reason(info.reason)
            case error_details_pb2.BadRequest() as bad:
                violations = [FieldViolation(v.field, v.description) for v in bad.field_violations]
            case error_details_pb2.RetryInfo() as retry:
                retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
    return Problem(reason, status.message, tuple(violations), metadata, retry_after_s, code)


def general_reason(code: grpc.StatusCode) -> Reason:
    """The reason for a status that carries no ErrorInfo of ours, such as one made by gRPC itself or a proxy."""
    return _GENERAL_REASONS.get(code, Reason.INTERNAL)


_GENERAL_REASONS: Mapping[grpc.StatusCode, Reason] = {
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: Reason.INVALID_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.UNAVAILABLE: Reason.UNREACHABLE,
    grpc.StatusCode.UNIMPLEMENTED: Reason.UNIMPLEMENTED,
}


def _unpack(packed: any_pb2.Any) -> Message | None:
    """A detail of a kind that we read; None for any other kind, and for bytes that are not what they claim to be."""
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
        if packed.Is(kind.DESCRIPTOR):
            detail: Message = kind()
            try:
                packed.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
