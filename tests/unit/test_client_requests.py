"""Requests from Python values; no sockets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.wire import vector_batch
from whit.client import Point, WhitError
from whit.client import _convert as convert
from whit.client import _options as opts
from whit.client import _requests as requests
from whit.contract.vectors import Encoding
from whit.v1 import embedding_pb2, vector_pb2

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def options(**changes: Any) -> embedding_pb2.EmbedOptions:
    values: dict[str, Any] = {
        "model": "m", "role": None, "instruction": None, "dimension_count": None, "encoding": "float32",
        "on_overflow": "error", "normalize": True, "layer_count": None,
    }  # fmt: skip
    return opts.embed_options(**(values | changes))


def test_every_option_reaches_the_wire() -> None:
    built = options(
        role="query",
        dimension_count=8,
        encoding=["int8", "binary"],
        on_overflow="truncate",
        normalize=False,
        layer_count=4,
    )

    assert built == embedding_pb2.EmbedOptions(
        model="models/m",
        role="query",
        dimension_count=8,
        encodings=[vector_pb2.VECTOR_ENCODING_INT8, vector_pb2.VECTOR_ENCODING_BINARY],
        on_overflow=embedding_pb2.OVERFLOW_POLICY_TRUNCATE,
        normalize=False,
        layer_count=4,
    )
    assert options(instruction="find: ").instruction == "find: "
    assert options().WhichOneof("prompt") is None


def test_equal_options_are_made_into_a_message_once_and_no_option_passes_for_an_equal_one_of_another_type() -> None:
    assert options() is options()
    assert options(encoding=["float32"]) == options()
    with pytest.raises(TypeError, match="normalize"):
        options(normalize=1)
    with pytest.raises(TypeError, match="dimension_count"):
        options(dimension_count=8.0)
    assert options(dimension_count=8).dimension_count == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "float64"}, "encoding must be 'float32', .* '3bit' or '4bit'; got 'float64'"),
        ({"encoding": []}, "encoding must be one or more different names"),
        ({"encoding": ["int8", "int8"]}, "encoding must be one or more different names"),
        ({"on_overflow": "cut"}, "on_overflow must be 'error' or 'truncate'; got 'cut'"),
        ({"role": "query", "instruction": "x"}, "give role or instruction, not both"),
        ({"dimension_count": 0}, r"dimension_count must be 1 or more and below 2\*\*31, or left out; got 0"),
    ],
)
def test_options_that_mean_nothing_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_on_error_has_two_values() -> None:
    assert opts.raises("raise")
    assert not opts.raises("return")
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'return'; got 'ignore'"):
        opts.raises("ignore")


def test_storage_of_a_collection() -> None:
    assert opts.storage("int8") == vector_pb2.VECTOR_ENCODING_INT8
    with pytest.raises(ValueError, match="storage must be"):
        opts.storage("int4")


@pytest.mark.parametrize("one", ["a text", b"bytes"])
def test_one_text_is_not_many(one: Any) -> None:
    with pytest.raises(TypeError, match=r"texts must be a sequence, got one (str|bytes); write \[texts\]"):
        requests.one_of(one, None)


@pytest.mark.parametrize(("texts", "token_ids"), [(None, None), (["a"], [[1]])])
def test_either_texts_or_token_ids(texts: Any, token_ids: Any) -> None:
    with pytest.raises(TypeError, match="give texts or token_ids, one of them"):
        requests.one_of(texts, token_ids)


@pytest.mark.parametrize("ids", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), np.array([1, 2, 3], np.uint8)])
def test_token_ids_are_any_sequence_of_int(ids: Any) -> None:
    assert list(requests.token_ids_entry(ids, 0).value.ids) == [1, 2, 3]


def test_no_token_ids_are_for_the_server_to_refuse() -> None:
    assert list(requests.token_ids_entry([], 0).value.ids) == []


@pytest.mark.parametrize("ids", [[1.5], ["1"], [[1, 2], [3]], [[1], [2]]])
def test_token_ids_that_are_no_numbers(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"token_ids\[7\] must be a sequence of int"):
        requests.token_ids_entry(ids, 7)


@pytest.mark.parametrize("bad", [-(2**40), 2**31, 2**63])
def test_token_ids_that_the_wire_cannot_hold_are_an_error_of_the_item(bad: int) -> None:
    with pytest.raises(WhitError, match=r"token_ids\[3\]: token ids must be 0 or more and below"):
        requests.token_ids_entry([1, bad], 3)


def test_points_of_parallel_sequences() -> None:
    points = requests.points_of(["1", "2"], ["a", "b"], None, None)

    assert [(p.id, p.text, p.metadata, p.vector) for p in points] == [("1", "a", {}, None), ("2", "b", {}, None)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"texts": ["a"]}, "texts must be as many as ids: 2 ids, 1 texts"),
        ({"texts": ["a", "b"], "metadata": [{}]}, "metadata must be as many as ids"),
        ({"vectors": [[1.0, 2.0]]}, "vectors must be as many as ids"),
        ({"vectors": [1.0, 2.0]}, r"vectors must have the shape \[count, dimensions\], got \[2\]"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "vectors has rows of different lengths"),
    ],
)
def test_sequences_of_different_lengths(columns: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"texts": None, "metadata": None, "vectors": None} | columns

    with pytest.raises(ValueError, match=message):
        requests.points_of(["1", "2"], **values)


def test_points_need_texts_or_vectors() -> None:
    with pytest.raises(TypeError, match="give texts"):
        requests.points_of(["1"], None, None, None)


def test_an_id_that_is_a_number() -> None:
    with pytest.raises(TypeError, match=r"points\[2\].id must be str, got int; write str"):
        requests.point_entry(Point(5, "text"), 2)  # type: ignore[arg-type]


def test_something_else_than_a_point() -> None:
    with pytest.raises(TypeError, match=r"points\[0\] must be a whit.client.Point, got dict"):
        requests.point_entry({"id": "1"}, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("query", [["a", "b"], b"a", None, 5, object()])
def test_something_else_than_a_query(query: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"queries\[3\] must"):
        requests.query_entry(query, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.dtype(">f4")])
def test_numbers_travel_as_float32(dtype: Any) -> None:
    batch = requests.vector_batch(requests.rows_of(MATRIX.astype(dtype)))

    assert batch == vector_batch(MATRIX, Encoding.FLOAT32)


def test_float16_stays_float16() -> None:
    assert requests.vector_batch(requests.rows_of(MATRIX.astype(np.float16))) == vector_batch(MATRIX, Encoding.FLOAT16)


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
def test_vectors_received_can_be_sent_as_they_are(encoding: Encoding) -> None:
    message = vector_batch(MATRIX, encoding)

    assert requests.vector_batch(requests.rows_of(convert.vectors(message))) == message


def test_binary_vectors_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="vectors must not be binary"):
        requests.rows_of(convert.vectors(vector_batch(MATRIX, Encoding.BINARY)))


@pytest.mark.parametrize("encoding", [Encoding.BITS_2, Encoding.BITS_3, Encoding.BITS_4])
def test_residual_codes_cannot_be_sent(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match=f"vectors must not be {encoding}: .* give to_float32"):
        requests.rows_of(convert.vectors(vector_batch(MATRIX, encoding)))


def test_vectors_of_words() -> None:
    with pytest.raises(TypeError, match="vectors must be numbers"):
        requests.rows_of([["a", "b"]])


def test_one_mapping_where_many_are_meant_is_refused() -> None:
    with pytest.raises(TypeError, match=r"metadata must be a sequence, got one dict; write \[metadata\]"):
        requests.points_of(["1"], ["a"], {"a": 1}, None)  # type: ignore[arg-type]


def test_a_number_beyond_float32_is_left_to_the_server_without_a_warning() -> None:
    [row] = requests.rows_of(np.full((1, 2), 1e300))

    assert np.isinf(row.values).all()
