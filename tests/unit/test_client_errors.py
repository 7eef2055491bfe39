"""The tree of errors: complete, worded for a person, and the right class for every status."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from whit.client import DeadlineExceeded, InvalidRequest, NotFound, ResourceExhausted, Unavailable, WhitError
from whit.client._errors import ERRORS_BY_CODE, from_item_status, from_problem, from_rpc_error, renumbered
from whit.contract.errors import RESPONSE_BYTE_COUNT, FieldViolation, Problem, Reason, to_status


class FakeCall(grpc.RpcError, grpc.Call):
    """The error of a blocking call, as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing

    initial_metadata = is_active = time_remaining = cancel = add_callback = None  # type: ignore[assignment]


def aio_error(code: grpc.StatusCode, details: str, trailing: Any = ()) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


KINDS = pytest.mark.parametrize("make", [FakeCall, aio_error], ids=["grpc", "grpc.aio"])


def of(error: grpc.RpcError, **options: Any) -> WhitError:
    values: dict[str, Any] = {"address": "host:1", "method": "Embed", "timeout": 2.5} | options
    return from_rpc_error(error, **values)


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_code_has_a_class(code: grpc.StatusCode) -> None:
    assert issubclass(ERRORS_BY_CODE[code], WhitError)
    assert of(FakeCall(code, "words")).code is code


def test_every_class_of_the_module_but_the_roots_stands_for_a_code() -> None:
    import whit.client

    classes = {c for name in whit.client.__all__ if isinstance(c := getattr(whit.client, name), type)}
    errors = {c for c in classes if issubclass(c, WhitError)} - {WhitError, whit.client.ItemErrors}

    assert errors == set(ERRORS_BY_CODE.values())


@KINDS
def test_a_rich_status_tells_all(make: Any) -> None:
    problem = Problem(
        Reason.QUEUE_FULL, "too much", (FieldViolation("texts", "many"),), {"model": "m"}, retry_after_s=0.5
    )
    status = to_status(problem).SerializeToString()

    error = of(make(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", [("grpc-status-details-bin", status)]))

    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.message, error.retry_after_s) == (Reason.QUEUE_FULL, "too much", 0.5)
    assert error.violations == (FieldViolation("texts", "many"),)
    assert error.metadata == {"model": "m"}
    assert str(error) == "too much [texts: many]"


@KINDS
def test_details_that_contradict_the_code_are_not_believed(make: Any) -> None:
    status = status_pb2.Status(code=5, message="other").SerializeToString()

    error = of(make(grpc.StatusCode.INTERNAL, "broken", [("grpc-status-details-bin", status)]))

    assert error.code is grpc.StatusCode.INTERNAL
    assert "broken" in str(error)


@KINDS
@pytest.mark.parametrize(
    ("code", "details", "kind", "reason", "words"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", Unavailable, Reason.UNREACHABLE,
         "no server answered at host:1; start one with: whit serve --models DIR"),
        ("UNAVAILABLE", "Socket closed", Unavailable, Reason.UNREACHABLE, "the connection to host:1 broke (Socket closed)"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded, Reason.DEADLINE_EXCEEDED,
         "Embed at host:1 was not done within timeout=2.5 s; give a larger timeout"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", ResourceExhausted, Reason.INVALID_REQUEST,
         "the request has 9 bytes, a message of this server holds 4 (message_byte_count); send fewer items at a time"),
        ("RESOURCE_EXHAUSTED", "SERVER: Sent message larger than max (9 vs. 4)", ResourceExhausted, Reason.INVALID_REQUEST,
         "the answer has 9 bytes, a message of this server holds 4 (message_byte_count); ask for less at a time"),
        ("RESOURCE_EXHAUSTED", "quota of the proxy", ResourceExhausted, Reason.QUEUE_FULL,
         "quota of the proxy; send less at a time, or try again later"),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", ResourceExhausted, Reason.QUEUE_FULL,
         "the server has as many calls as it takes; make fewer at a time, or try again later"),
        ("UNIMPLEMENTED", "Method not found!", WhitError, Reason.UNIMPLEMENTED, "no whit server, or an older one: upgrade it"),
        ("NOT_FOUND", "no such thing", NotFound, Reason.INTERNAL, "Embed at host:1 failed with NOT_FOUND (no such thing)"),
        ("UNAUTHENTICATED", "key", WhitError, Reason.INTERNAL, "refused access to Embed"),
        ("INVALID_ARGUMENT", "bad", InvalidRequest, Reason.INVALID_REQUEST, "failed with INVALID_ARGUMENT (bad)"),
    ],
)  # fmt: skip
def test_what_grpc_says_itself_is_said_in_words_that_help(
    make: Any, code: str, details: str, kind: type[WhitError], reason: Reason, words: str
) -> None:
    error = of(make(grpc.StatusCode[code], details))

    assert isinstance(error, kind)
    assert error.reason is reason
    assert words in str(error)


@KINDS
def test_what_may_be_tried_again_and_what_must_be_asked_for_in_parts_is_marked(make: Any) -> None:
    def exhausted(details: str) -> WhitError:
        return of(make(grpc.StatusCode.RESOURCE_EXHAUSTED, details))

    assert exhausted("Concurrent RPC limit exceeded!").retry_after_s == 0.5
    assert exhausted("quota of the proxy").retry_after_s is None
    assert exhausted("SERVER: Sent message larger than max (9 vs. 4)").metadata == {RESPONSE_BYTE_COUNT: "9"}
    assert exhausted("SERVER: Received message larger than max (9 vs. 4)").metadata == {}


def test_errors_are_one_line() -> None:
    assert str(from_problem(Problem(Reason.INTERNAL, "a\n  b"))) == "a b"
    assert str(from_problem(Problem(Reason.INTERNAL, ""))) == "the server gave no message (INTERNAL)"


def test_many_violations_are_counted() -> None:
    violations = tuple(FieldViolation(f"texts[{i}]", f"bad {i}") for i in range(5))

    assert str(from_problem(Problem(Reason.INVALID_REQUEST, "no", violations))).endswith("; and 2 more]")


def test_pythons_own_classes_catch_them_too() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(Unavailable, ConnectionError)


def test_errors_can_be_sent_between_processes() -> None:
    error = from_problem(Problem(Reason.QUEUE_FULL, "full", metadata={"a": "b"}, retry_after_s=1.0))

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert copy.problem == error.problem


def test_paths_of_items_name_the_users_own() -> None:
    problem = Problem(
        Reason.INVALID_REQUEST,
        "batch.points[1].id: is 'x' like batch.points[0].id; see options.encodings[3]",
        (FieldViolation("batch.points[1].id", "bad"),),
    )

    found = renumbered(problem, lambda index: index + 64, "points")

    assert found.message == "points[65].id: is 'x' like points[64].id; see options.encodings[3]"
    assert found.violations[0].field == "points[65].id"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("shorten it, or ask for on_overflow=TRUNCATE to", 'shorten it, or ask for on_overflow="truncate" to'),
        ("must be 1 to 32, or 0 for all; got 33", "must be 1 to 32, or left out for all; got 33"),
        ("must be 0, for the package is run with all", "must be left out, for the package is run with all"),
    ],
)
def test_what_is_to_be_done_is_said_in_words_that_this_client_takes(said: str, told: str) -> None:
    """``on_overflow="TRUNCATE"`` and ``layer_count=0`` are refused by it."""
    status = to_status(Problem(Reason.INVALID_REQUEST, f"options.x: {said}", (FieldViolation("options.x", said),)))
    trailer = [("grpc-status-details-bin", status.SerializeToString())]

    for error in (
        of(FakeCall(grpc.StatusCode.INVALID_ARGUMENT, status.message, trailer)),
        from_item_status(status, lambda index: index, "texts"),
    ):
        assert str(error) == f"options.x: {told}"
        assert error.violations == (FieldViolation("options.x", told),)
