"""Protobuf to plain values and back, and the statuses that headers can hold."""

import json
from base64 import b64encode
from urllib.parse import quote

import numpy as np
import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from whit.contract.errors import FieldViolation, Problem, Reason, to_status
from whit.contract.vectors import EncodedVectors, Encoding, encode
from whit.server.errors import ServiceError
from whit.server.service import checks, rpc
from whit.server.service.convert import (
    BYTES_A_JSON_BYTE,
    encoding_of,
    fill_batch,
    fill_struct,
    from_batch,
    metadata_json,
    truncates,
)
from whit.v1 import vector_pb2

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_metadata_survives_the_way_into_the_database_and_back(content):
    struct = struct_pb2.Struct()
    json_format.ParseDict(content, struct)
    text = metadata_json(struct)
    assert json.loads(text) == json.loads(json_format.MessageToJson(struct))
    back = struct_pb2.Struct()
    fill_struct(back, text)
    assert back == struct


@given(st.dictionaries(st.text(), JSON_VALUES | st.lists(st.integers(0, 9), min_size=50), max_size=5))
def test_metadata_too_large_for_any_json_of_a_length_is_known_by_its_bytes(content):
    struct = struct_pb2.Struct()
    json_format.ParseDict(content, struct)
    assert struct.ByteSize() <= BYTES_A_JSON_BYTE * len(metadata_json(struct).encode())


def test_whole_numbers_are_stored_without_a_fraction():
    struct = struct_pb2.Struct()
    struct.update({"a": 3, "b": 2.5, "c": -0.0, "d": 1e300})
    assert json.loads(metadata_json(struct)) == {"a": 3, "b": 2.5, "c": 0.0, "d": 1e300}
    assert '"a":3,' in metadata_json(struct)
    assert '"c":-0.0' in metadata_json(struct)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(number):
    struct = struct_pb2.Struct()
    struct.fields["list"].list_value.values.add().number_value = number
    with pytest.raises(ValueError, match="'list', which JSON does not have"):
        metadata_json(struct)


def batch_of(encoded):
    batch = vector_pb2.VectorBatch()
    fill_batch(batch, encoded)
    return batch


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
def test_vectors_survive_the_wire(encoding):
    vectors = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    found = from_batch(batch_of(encode(vectors, encoding)), count=5, dimension_count=12, at="vectors")
    np.testing.assert_allclose(found, vectors, atol=0 if encoding is Encoding.FLOAT32 else 0.02)


def test_vectors_that_overflow_are_the_callers_to_refuse():
    encoded = EncodedVectors(Encoding.INT8, 1, 2, b"\x7f\x01", np.array([3e38], "<f4").tobytes())
    found = from_batch(batch_of(encoded), count=1, dimension_count=2, at="vectors")
    assert not np.isfinite(found).all()


@pytest.mark.parametrize("count", [-1, 2**31 - 1])
def test_absurd_counts_are_refused_before_anything_is_allocated(count):
    batch = batch_of(encode(np.ones((1, 4), np.float32), Encoding.FLOAT32))
    batch.count = count
    with pytest.raises(ServiceError) as error:
        from_batch(batch, count=None, dimension_count=4, at="vectors")
    assert error.value.problem.reason is Reason.INVALID_VECTOR


def test_enum_numbers():
    assert encoding_of(0) is Encoding.FLOAT32
    assert [encoding_of(n) for n in range(1, 8)] == list(Encoding)
    with pytest.raises(ValueError, match="got 8"):
        encoding_of(8)
    assert [truncates(n) for n in (0, 1, 2)] == [False, False, True]
    with pytest.raises(ValueError, match="got 3"):
        truncates(3)


@pytest.mark.parametrize("character", ["x", "%", "é", "文"])
def test_a_status_fits_into_headers_however_much_is_wrong(character):
    violations = [FieldViolation(f"points[{i}].metadata", "is wrong " * 20) for i in range(1000)]
    problem = Problem(Reason.INVALID_REQUEST, character * 100_000, violations)
    fitted = rpc._fitted(problem)
    assert to_status(fitted).ByteSize() <= 4096
    assert list(fitted.violations) == violations[: len(fitted.violations)]
    assert fitted.violations
    assert fitted.message.endswith("…")
    in_headers = len(quote(fitted.message)) + len(b64encode(to_status(fitted).SerializeToString()))
    assert in_headers < 7000  # of 8192, which names and the status code are in, too
    small = Problem(Reason.INVALID_REQUEST, "short", violations[:3])
    assert rpc._fitted(small) == Problem(Reason.INVALID_REQUEST, "short", violations[:3])


@given(st.lists(st.text("abc", min_size=1), unique=True), st.integers(0, 5))
def test_pages_hold_everything_once(names, page_size):
    names.sort()
    token, seen = "", []
    for _ in range(len(names) + 1):
        found, token = checks.page(names, str, page_size, token)
        assert len(found) <= (page_size or 100)
        seen += found
        if not token:
            break
    assert seen == names


@pytest.mark.parametrize("token", ["x", "!!", "YWZ0ZXI", "\u00e9", "cGFnZTox"])
def test_a_token_that_is_not_ours_is_refused(token):
    with pytest.raises(ServiceError, match="page_token: must be a next_page_token"):
        checks.page([], str, 0, token)


def test_method_names_in_python():
    assert [rpc.snake_case(n) for n in ("Get", "StreamEmbed", "GetServerInfo")] == [
        "get",
        "stream_embed",
        "get_server_info",
    ]


def test_metadata_too_deep_to_go_out_again_is_refused():
    content = 1
    for _ in range(31):
        content = [content]
    struct = struct_pb2.Struct()
    fill_struct(struct, json.dumps({"a": content}))
    assert json.loads(metadata_json(struct)) == {"a": content}

    fill_struct(struct, json.dumps({"a": [content]}))
    with pytest.raises(ValueError, match="nested more than 32 levels deep, at 'a'; flatten it"):
        metadata_json(struct)
