"""The one table of errors: complete, and the same on both sides of the wire."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from whit.contract.errors import CODES, DOMAIN, FieldViolation, Problem, Reason, from_status, general_reason, to_status

# Server-side faults a caller may see again: which of them says "try again" is part of the contract.
RETRIABLE_CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}

text = st.text(st.characters(codec="utf-8"), max_size=40)
problems = st.builds(
    Problem,
    reason=st.sampled_from(Reason),
    message=text,
    violations=st.lists(st.builds(FieldViolation, text, text), max_size=4).map(tuple),
    metadata=st.dictionaries(text, text, max_size=4),
    retry_after_s=st.none() | st.integers(0, 10**9).map(lambda us: us / 1e6),
)


def details(status: status_pb2.Status) -> list[str]:
    return [detail.TypeName().rpartition(".")[2] for detail in status.details]


def test_every_reason_has_a_code() -> None:
    assert set(CODES) == set(Reason)
    assert all(reason.value == reason.name for reason in Reason)
    assert grpc.StatusCode.OK not in CODES.values()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_comes_back_from_the_wire(reason: Reason) -> None:
    status = to_status(Problem(reason, "what to do"))

    found = from_status(status_pb2.Status.FromString(status.SerializeToString()))

    assert (status.code, details(status)) == (CODES[reason].value[0], ["ErrorInfo"])
    assert found == Problem(reason, "what to do", code=CODES[reason])


@given(problems)
def test_a_problem_comes_back_whole(problem: Problem) -> None:
    found = from_status(status_pb2.Status.FromString(to_status(problem).SerializeToString()))

    assert found == replace(problem, code=problem.status_code)


def test_details_are_there_only_where_they_apply() -> None:
    bad_field = Problem(Reason.EMPTY_TEXT, "m", [FieldViolation("texts[3]", "empty")])
    retry = Problem(Reason.QUEUE_FULL, "m", retry_after_s=0.25)

    assert details(to_status(bad_field)) == ["ErrorInfo", "BadRequest"]
    assert details(to_status(retry)) == ["ErrorInfo", "RetryInfo"]


def test_the_domain_is_stated_and_needed() -> None:
    info = error_details_pb2.ErrorInfo()
    status = to_status(Problem(Reason.DUPLICATE_ID, "m"))
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, "DUPLICATE_ID")

    info.domain = "another.service"
    status.details[0].Pack(info)

    assert from_status(status).reason is Reason.INVALID_REQUEST


def with_reason(reason: str, code: grpc.StatusCode) -> status_pb2.Status:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"k": "v"}))
    return status_pb2.Status(code=code.value[0], message="from the future", details=[packed])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL),
        (grpc.StatusCode.UNAVAILABLE, Reason.UNREACHABLE),
        (grpc.StatusCode.UNIMPLEMENTED, Reason.UNIMPLEMENTED),
        (grpc.StatusCode.DATA_LOSS, Reason.INTERNAL),
    ],
)
def test_a_reason_of_a_newer_server_becomes_the_general_one(code: grpc.StatusCode, reason: Reason) -> None:
    found = from_status(with_reason("MADE_UP_LATER", code))

    assert found == Problem(reason, "from the future", metadata={"k": "v"}, code=code)


def test_a_code_that_does_not_exist_is_unknown_not_a_crash() -> None:
    found = from_status(status_pb2.Status(code=4711, message="m"))

    assert (found.reason, found.status_code) == (Reason.INTERNAL, grpc.StatusCode.UNKNOWN)


def test_a_detail_of_another_kind_is_passed_over() -> None:
    status = to_status(Problem(Reason.MODEL_NOT_FOUND, "m"))
    help_ = any_pb2.Any()
    help_.Pack(error_details_pb2.Help())
    status.details.insert(0, help_)

    assert from_status(status).reason is Reason.MODEL_NOT_FOUND


def test_a_cut_detail_is_passed_over() -> None:
    status = to_status(Problem(Reason.MODEL_NOT_FOUND, "m", [FieldViolation("model", "unknown")]))
    status.details[1].value = status.details[1].value[:-3]

    found = from_status(status)

    assert (found.reason, found.violations) == (Reason.MODEL_NOT_FOUND, ())


def test_a_general_reason_never_claims_more_than_the_code_says() -> None:
    for code in grpc.StatusCode:
        reason = general_reason(code)
        assert reason is Reason.INTERNAL or CODES[reason] is code or code is grpc.StatusCode.OUT_OF_RANGE


def test_what_a_caller_may_retry_is_known_by_its_code() -> None:
    found = {reason for reason in Reason if CODES[reason] in RETRIABLE_CODES}

    assert found == {
        Reason.QUEUE_FULL,
        Reason.MEMORY_LOW,
        Reason.STORAGE_FULL,
        Reason.SHUTTING_DOWN,
        Reason.STREAM_IDLE,
        Reason.UNREACHABLE,
    }
