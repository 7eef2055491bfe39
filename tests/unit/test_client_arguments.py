"""What is given to the clients by mistake is refused before anything is sent, by the argument's name; no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from whit.client import AsyncClient, Client, EmbedResult, Encoding, InvalidRequest, Point, RetryPolicy, Timing, Vectors
from whit.client import _options as opts
from whit.client import _plans as plans
from whit.client import _requests as requests
from whit.client import _streams as streams
from whit.client._calls import Session
from whit.client._errors import from_problem
from whit.client._steps import Invoke
from whit.contract.errors import Problem, Reason
from whit.v1 import collection_pb2, point_pb2, server_pb2

ANYWHERE = "localhost:1"
HALF = "\ud800"
EMBEDDED = EmbedResult({"int8": Vectors(Encoding.INT8, 2, np.ones((1, 2), np.int8))}, [], Timing(0, 0, 0), "")


def session() -> Session:
    return Session(ANYWHERE, 60.0, RetryPolicy())


async def asynchronous() -> AsyncIterator[str]:
    yield "a"


# ---- a client ----


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": None}, "address must be str, .* got NoneType"),
        ({"address": b"localhost:1"}, "address must be str, .* got bytes"),
        ({"retry": 3}, r"retry must be a RetryPolicy, such as RetryPolicy\(attempt_count=3\); got int"),
        ({"timeout": "5"}, "timeout must be a number of seconds, or None for no limit; got str"),
        ({"timeout": True}, "timeout must be a number of seconds"),
        ({"credentials": "cert.pem"}, r"credentials must come from grpc\.ssl_channel_credentials"),
        ({"metadata": [("key", "value")]}, "metadata must be a mapping of header names to str, got list"),
        ({"metadata": {"key": 1}}, r"metadata\['key'\] must be str, got int"),
        ({"metadata": {"key-bin": "text"}}, r"metadata\['key-bin'\] must be bytes, got str"),
    ],
)
def test_what_a_client_is_made_with_has_a_type(client: type[Client], options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        client(**({"address": ANYWHERE} | options))


@pytest.mark.parametrize(
    "address",
    [
        "host:65536",
        "host:0",
        "::1",
        "fe80::1:7600",
        ":7600",
        " host:1",
        "ho st:1",
        "host:1\n",
        "h\0st:1",
        HALF + ":1",
        "unix:",
        "dns:",
    ],
)
def test_an_address_that_names_another_place_is_refused(address: str) -> None:
    """gRPC takes 65,537 for port 1, and the port of https where it finds none."""
    with pytest.raises(ValueError, match="address must be HOST:PORT"):
        Client(address)


@pytest.mark.parametrize("address", ["[::1]:7600", "host:65535", "unix:/tmp/a b.sock", "dns:host:1", "dns:///host:1"])
def test_every_address_of_grpc_s_is_taken(address: str) -> None:
    Client(address).close()


@pytest.mark.parametrize("metadata", [{"a key": "v"}, {"": "v"}, {"é": "v"}, {"key": "secret\n"}, {"key": "secret é"}])
def test_metadata_that_no_header_can_hold_is_refused_and_not_shown(metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata") as refusal:
        Client(ANYWHERE, metadata=metadata)

    assert "secret" not in str(refusal.value)


def test_a_timeout_that_grpc_would_take_for_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1e"):
        Client(ANYWHERE, timeout=1e10)
    assert session().timeout_of(np.float32(2)) == 2.0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"attempt_count": 0}, "attempt_count must be a whole number, 1 .* got 0"),
        ({"attempt_count": "2"}, "attempt_count must be a whole number, 1 .* got '2'"),
        ({"first_delay_s": -1}, "first_delay_s must be 0 seconds or more; got -1"),
        ({"max_delay_s": float("nan")}, "max_delay_s must be 0 seconds or more; got nan"),
    ],
)
def test_a_retry_policy_that_means_nothing_is_refused(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**policy)


# ---- a call ----


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: opts.model_name(None), "the name of a model must be str, got NoneType"),  # type: ignore[arg-type]
        (lambda: opts.collection_name(5), "the name of a collection must be str, got int"),  # type: ignore[arg-type]
        (lambda: opts.role_name(5), "role must be str, got int"),  # type: ignore[arg-type]
        (lambda: opts.positive("3", "limit"), r"limit must be a whole number \(int\), got '3'"),  # type: ignore[arg-type]
        (lambda: opts.positive(3.0, "limit"), r"limit must be a whole number \(int\), got 3\.0"),  # type: ignore[arg-type]
        (lambda: opts.positive(True, "limit"), r"limit must be a whole number \(int\), got True"),
        (lambda: opts.switch("no", "exact"), "exact must be True or False, got 'no'"),  # type: ignore[arg-type]
        (lambda: opts.encodings(None), "encoding must be a name or several, got None"),  # type: ignore[arg-type]
        (lambda: requests.sequence_of(asynchronous(), "texts"), "texts must be a sequence, got async_generator, which"),
        (lambda: requests.sequence_of(np.array("a"), "texts"), "texts must be a sequence, got ndarray"),
        (lambda: requests.one_of({"a", "b"}, None), r"texts .* got a set, whose order is any.*; write sorted\(texts\)"),
        (lambda: requests.many_queries(frozenset("ab")), r"queries must be a sequence, got a frozenset"),
        (lambda: requests.points_of({"1", "2"}, ["a", "b"], None, None), r"ids must be a sequence, got a set"),  # type: ignore[arg-type]
        (lambda: requests.one_of({"a": "b"}, None), r"texts .* got one dict; write list\(texts.values\(\)\)"),
        (lambda: requests.rows_of(EMBEDDED), r"vectors .* got an EmbedResult; give its by_encoding\['int8'\]"),  # type: ignore[arg-type]
        (lambda: requests.token_ids_entry(b"ab", 0), r"token_ids\[0\] must be a sequence of int"),  # type: ignore[arg-type]
        (lambda: requests.rows_of(row for row in [[1.0]]), "vectors must be numbers, got generator"),  # type: ignore[arg-type]
        (lambda: requests.once_only([["x"]])(Point(["x"]), 0), r"points\[0\]\.id must be str"),  # type: ignore[list-item, arg-type]
        (lambda: requests.point_entry(Point("1", "a", []), 0), r"points\[0\]\.metadata must be a mapping"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_type_is_named(check: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: opts.model_name(HALF), "the name of a model has half a surrogate pair"),
        (lambda: opts.collection_name(HALF), "the name of a collection has half a surrogate pair"),
        (lambda: opts.role_name(HALF), "role has half a surrogate pair"),
        (lambda: opts.encodings(["int8", ["x"]]), r"encoding must be .* got \['x'\]"),  # type: ignore[list-item]
        (lambda: opts.overflow(["x"]), "on_overflow must be"),  # type: ignore[arg-type]
        (lambda: requests.rows_of(Vectors(Encoding.INT8, 2, np.ones((3, 2), np.int8))), "a scale for each of their 3"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(check: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check()

    assert type(refusal.value) is ValueError  # not UnicodeEncodeError, whose words are about codecs


@pytest.mark.parametrize("name", ["normalize", "exact", "with_payload"])
def test_numpy_s_booleans_are_booleans(name: str) -> None:
    assert opts.switch(np.bool_(True), name) is True


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_streams_take_vectors_as_batches_do(client: type[Client]) -> None:
    vectors = Vectors(Encoding.FLOAT32, 2, np.eye(2, dtype=np.float32))

    assert [row.values.tolist() for row in requests.many_queries(vectors)] == [[1, 0], [0, 1]]
    client(ANYWHERE).search_stream("c", vectors)


# ---- what a call does with the server's limits ----


def answered(plan: Any, *answers: Any) -> tuple[list[Any], Any]:
    """The requests of a plan whose calls are answered with ``answers`` in turn, or fail with them, and its result."""
    sent, outcome = [], None
    for answer in (*answers, None):
        try:
            step = plan.throw(outcome) if isinstance(outcome, Exception) else plan.send(outcome)
        except StopIteration as end:
            return sent, end.value
        assert isinstance(step, Invoke)
        sent.append(step.request)
        outcome = answer
    raise AssertionError("the plan asks for more")


def limits(**changes: int) -> server_pb2.GetServerInfoResponse:
    values = {"batch_item_count": 2, "message_byte_count": 4096, "stream_window_count": 2} | changes
    return server_pb2.GetServerInfoResponse(limits=server_pb2.Limits(**values))


def test_an_id_that_an_earlier_batch_deleted_was_there() -> None:
    gone = point_pb2.DeleteResponse(deleted_count=1, missing_ids=["b"], sequence=1)
    again = point_pb2.DeleteResponse(missing_ids=["a", "c"], sequence=1)

    sent, result = answered(plans.delete(session(), "c", ["a", "b", "a", "c"], None), limits(), gone, again)

    assert [list(request.ids) for request in sent[1:]] == [["a", "b"], ["a", "c"]]
    assert (result.deleted_count, result.missing_ids) == (1, ("b", "c"))


def test_ids_that_name_what_is_wanted_may_be_a_set() -> None:
    sent, _ = answered(plans.delete(session(), "c", {"a"}, None), limits(), point_pb2.DeleteResponse())  # type: ignore[arg-type]

    assert list(sent[1].ids) == ["a"]


def test_a_collection_that_is_deleted_while_it_is_asked_for_is_made() -> None:
    there = from_problem(Problem(Reason.COLLECTION_EXISTS, "there is one"))
    gone = from_problem(Problem(Reason.COLLECTION_NOT_FOUND, "there is none"))
    made = collection_pb2.CreateCollectionResponse(collection=collection_pb2.Collection(name="collections/c"))
    options = {"model": "m", "storage": "int8", "dimension_count": None, "timeout": None}

    _, found = answered(plans.create_collection(session(), "c", exist_ok=True, **options), there, gone, made)  # type: ignore[arg-type]

    assert found.name == "c"


def test_an_id_that_is_no_text_is_named() -> None:
    with pytest.raises(ValueError, match=r"ids\[1\] has half a surrogate pair"):
        answered(plans.get(session(), "c", ["a", HALF], with_vectors=False, timeout=None), limits())


@pytest.mark.parametrize("method", ["embed", "upsert", "search", "points"])
def test_options_larger_than_a_message_are_refused_as_such(method: str) -> None:
    """They were sent, and the refusal asked for fewer items."""
    role, common = "x" * 5000, {"on_overflow": "error", "on_error": "raise", "timeout": None}
    plan: Any
    if method == "points":
        plan = plans.upsert(session(), "c", ["1"], ["a"], None, None, role=role, **common)  # type: ignore[arg-type]
    elif method == "upsert":
        plan = streams.upsert(session(), "c", batch_size=2, role=role, **common)  # type: ignore[arg-type]
    elif method == "search":
        chosen = {"limit": 1, "score_threshold": None, "exact": False, "with_payload": True, "role": role}
        plan = streams.search(session(), collection="c", batch_size=2, **chosen, **common)  # type: ignore[arg-type]
    else:
        chosen = {"instruction": None, "dimension_count": 4, "layer_count": None, "normalize": True, "role": role}
        plan = streams.embed(
            session(),
            are_token_ids=False,
            batch_size=2,
            model="m",
            encoding="int8",
            **chosen,
            **common,  # type: ignore[arg-type]
        )

    with pytest.raises(InvalidRequest, match=r"the options have 50\d\d bytes, .* give a shorter role or instruction"):
        answered(plan, limits())
