"""Requests from Python values and Python values from responses, metadata included; no sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.client import EmbedResult, InternalError, ItemErrors, Point, Vectors, WhitError
from whit.client import _convert as convert
from whit.client import _options as opts
from whit.client import _requests as requests
from whit.client._metadata import from_struct, to_struct
from whit.client._split import Batch, refused
from whit.contract.errors import FieldViolation, Problem, Reason, to_status
from whit.contract.vectors import Encoding, decode, encode
from whit.v1 import embedding_pb2, point_pb2, vector_pb2

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def wire(matrix: np.ndarray[Any, Any], encoding: Encoding) -> vector_pb2.VectorBatch:
    e = encode(matrix.astype(np.float32), encoding)
    return vector_pb2.VectorBatch(
        encoding=convert.ENCODING_TO_WIRE[encoding], count=e.count, dimension_count=e.dimension_count, data=e.data,
        scales=e.scales,
    )  # fmt: skip


def options(**changes: Any) -> embedding_pb2.EmbedOptions:
    values: dict[str, Any] = {
        "model": "m", "role": None, "instruction": None, "dimension_count": None, "encoding": "float32",
        "on_overflow": "error", "normalize": True, "layer_count": None,
    }  # fmt: skip
    return opts.embed_options(**(values | changes))


# ---- options ----


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


# ---- items ----


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


# ---- vectors ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.dtype(">f4")])
def test_numbers_travel_as_float32(dtype: Any) -> None:
    batch = requests.vector_batch(requests.rows_of(MATRIX.astype(dtype)))

    assert batch == wire(MATRIX, Encoding.FLOAT32)


def test_float16_stays_float16() -> None:
    assert requests.vector_batch(requests.rows_of(MATRIX.astype(np.float16))) == wire(MATRIX, Encoding.FLOAT16)


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
def test_vectors_received_can_be_sent_as_they_are(encoding: Encoding) -> None:
    message = wire(MATRIX, encoding)

    assert requests.vector_batch(requests.rows_of(convert.vectors(message))) == message


def test_binary_vectors_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="vectors must not be binary"):
        requests.rows_of(convert.vectors(wire(MATRIX, Encoding.BINARY)))


@pytest.mark.parametrize("encoding", [Encoding.BITS_2, Encoding.BITS_3, Encoding.BITS_4])
def test_residual_codes_cannot_be_sent(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match=f"vectors must not be {encoding}: .* give to_float32"):
        requests.rows_of(convert.vectors(wire(MATRIX, encoding)))


def test_vectors_of_words() -> None:
    with pytest.raises(TypeError, match="vectors must be numbers"):
        requests.rows_of([["a", "b"]])


@pytest.mark.parametrize(
    ("encoding", "dtype", "row", "scales"),
    [
        (Encoding.FLOAT32, np.float32, (4,), None),
        (Encoding.FLOAT16, np.float16, (4,), None),
        (Encoding.INT8, np.int8, (4,), (3,)),
        (Encoding.BINARY, np.uint8, (1,), None),
        (Encoding.BITS_2, np.uint8, (2, 1), (3, 2)),
        (Encoding.BITS_3, np.uint8, (3, 1), (3, 3)),
        (Encoding.BITS_4, np.uint8, (4, 1), (3, 4)),
    ],
)
def test_vectors_are_views_of_what_was_received(
    encoding: Encoding, dtype: Any, row: tuple[int, ...], scales: tuple[int, ...] | None
) -> None:
    vectors = convert.vectors(wire(MATRIX, encoding))

    assert (vectors.values.dtype, vectors.values.shape) == (dtype, (3, *row))
    assert vectors.dimension_count == 4
    assert not vectors.values.flags.owndata
    assert (None if vectors.scales is None else vectors.scales.shape) == scales
    if encoding is Encoding.BINARY:
        assert np.array_equal(vectors.to_float32(), np.where(MATRIX > 0, 1, -1))
    else:
        assert np.array_equal(vectors.to_float32(), decode(encode(MATRIX, encoding)))


def test_malformed_vectors_are_a_defect_of_the_server() -> None:
    message = wire(MATRIX, Encoding.FLOAT32)
    message.data = message.data[:-1]

    with pytest.raises(InternalError, match="the server sent a malformed vector batch: data must have 48 bytes"):
        convert.vectors(message)


def test_an_encoding_of_the_future() -> None:
    with pytest.raises(InternalError, match="vector encoding 77, which this client does not know; upgrade whit"):
        convert.vectors(vector_pb2.VectorBatch(encoding=77))  # type: ignore[arg-type]


# ---- embedding results ----


def response(matrix: Any, *statuses: Problem | None, fingerprint: str = "f", encodings: Any = ("float32",)) -> Any:
    items = [
        embedding_pb2.EmbedItem(token_count=5, used_token_count=5, status=to_status(problem) if problem else None)
        for problem in statuses
    ]
    return embedding_pb2.EmbedResponse(
        vectors=[wire(matrix, Encoding(name)) for name in encodings],
        items=items,
        model_fingerprint=fingerprint,
        timing=embedding_pb2.EmbedTiming(queue_time_us=1, tokenize_time_us=2, infer_time_us=3),
    )


EMPTY = Problem(Reason.EMPTY_TEXT, "texts[1]: is empty", (FieldViolation("texts[1]", "is empty"),))


def test_a_result_has_vectors_items_and_times() -> None:
    result = convert.embed_result(
        response(MATRIX, None, None, None, encodings=("int8", "float32")), Batch("texts", 0, list("abc"))
    )

    assert list(result.by_encoding) == ["int8", "float32"]
    assert result.encoding is Encoding.INT8
    assert result.vectors.dtype == np.int8
    assert result.scales is not None
    assert np.array_equal(result.by_encoding["float32"].values, MATRIX)
    assert (result.timing.queue_time_us, result.timing.infer_time_us) == (1, 3)
    assert [item.error for item in result.items] == [None] * 3
    assert repr(result) == "<EmbedResult int8 [3, 4], float32 [3, 4], 3 items, 0 failed>"


def test_refused_items_get_rows_of_zeros_between_the_others() -> None:
    refusal = convert._defect("cannot be sent")
    batch = Batch("texts", 10, ["a", "c"], {1: refusal})

    result = convert.embed_result(response(MATRIX[:2], None, EMPTY, encodings=("int8", "float32", "3bit")), batch)

    planes = result.by_encoding["3bit"].to_float32()
    assert np.array_equal(planes[[0, 2]], decode(encode(MATRIX[:2], Encoding.BITS_3)))
    assert not planes[1].any()
    assert np.array_equal(result.by_encoding["float32"].values, [MATRIX[0], np.zeros(4), MATRIX[1]])
    assert result.by_encoding["int8"].scales is not None
    assert result.by_encoding["int8"].scales[1] == 0
    assert result.items[1].error is refusal
    error = result.items[2].error
    assert error is not None
    assert error.violations[0].field == "texts[12]"  # sent as number 1, the user's number 12


def test_items_of_a_stream_have_the_users_name() -> None:
    problem = Problem(Reason.EMPTY_TEXT, "batch.items[1]: is empty", (FieldViolation("batch.items[1]", "is empty"),))

    result = convert.embed_result(response(MATRIX[:2], None, problem), Batch("token_ids", 64, [1, 2]))

    assert str(result.items[1].error) == "token_ids[65]: is empty"


@pytest.mark.parametrize("count", [2, 4])
def test_an_answer_to_another_number_of_items_is_a_defect(count: int) -> None:
    with pytest.raises(InternalError, match=f"answered 3 items of {count}"):
        convert.embed_result(response(MATRIX, None, None, None), Batch("texts", 0, ["x"] * count))


def part(start: int, *statuses: Problem | None, **options: Any) -> EmbedResult:
    count = len(statuses)
    return convert.embed_result(response(MATRIX[:count], *statuses, **options), Batch("texts", start, [""] * count))


def test_parts_are_joined_in_order() -> None:
    parts = [part(0, None, None, encodings=("int8",)), part(2, None, encodings=("int8",))]

    joined = convert.join_embed_results(parts)

    assert np.array_equal(joined.vectors, np.concatenate([parts[0].vectors, parts[1].vectors]))
    assert joined.scales is not None
    assert joined.scales.shape == (3,)
    assert (joined.timing.queue_time_us, joined.timing.infer_time_us) == (1, 6)
    assert len(joined) == 3


def test_parts_of_two_packages_do_not_go_together() -> None:
    with pytest.raises(WhitError, match="changed to another package") as caught:
        convert.join_embed_results([part(0, None), part(1, None, fingerprint="g")])
    assert caught.value.reason is Reason.FINGERPRINT_MISMATCH


def test_a_part_of_which_nothing_was_sent_joins_any_package() -> None:
    refused = Batch("texts", 1, [], {0: convert._defect("no")})
    failed = convert.failed_embed_result(refused, None, 4, [Encoding.FLOAT32])

    joined = convert.join_embed_results([failed, part(1, None)])

    assert joined.fingerprint == "f"
    assert not joined.vectors[0].any()


@pytest.mark.parametrize("encoding", Encoding)
def test_a_batch_that_failed_whole_has_zeros_in_the_right_form(encoding: Encoding) -> None:
    error = convert._defect("no")

    result = convert.failed_embed_result(Batch("texts", 0, ["a", "b"], {1: error}), error, 12, [encoding])

    assert len(result.vectors) == 3
    assert result.vectors.nbytes == 3 * encoding.row_bytes(12)
    assert (0 if result.scales is None else result.scales.size) == 3 * encoding.scale_count
    assert not result.vectors.any()
    assert [item.error for item in result.items] == [error] * 3


def test_failed_items_are_raised_with_the_others_at_hand() -> None:
    result = part(64, None, EMPTY, None)

    with pytest.raises(ItemErrors) as caught:
        convert.raise_item_errors(result, 64)

    error = caught.value
    assert error.result is result
    assert list(error.errors) == [1]
    assert error.start == 64
    assert error.reason is Reason.EMPTY_TEXT
    assert str(error).startswith("1 of 3 items failed; the first is number 65: texts[65]: is empty (")


def test_a_good_result_raises_nothing() -> None:
    convert.raise_item_errors(part(0, None))


# ---- points and hits ----


def test_points_come_back_with_metadata_and_float32() -> None:
    message = point_pb2.GetResponse(
        points=[point_pb2.Point(id="1", text="a", metadata=to_struct({"n": 1}, "m")), point_pb2.Point(id="2")],
        vectors=wire(MATRIX[:2], Encoding.INT8),
    )

    first, second = convert.points(message)

    assert (first.id, first.text, first.metadata) == ("1", "a", {"n": 1})
    assert first.vector is not None
    assert first.vector.dtype == np.float32
    assert second.metadata == {}


def test_points_without_vectors() -> None:
    assert convert.points(point_pb2.GetResponse(points=[point_pb2.Point(id="1")]))[0].vector is None


def test_search_results_keep_their_places() -> None:
    hit = point_pb2.Hit(id="1", score=0.5, text="t", metadata=to_struct({"a": [1, None]}, "m"))
    message = point_pb2.SearchResponse(
        results=[point_pb2.SearchResult(hits=[hit]), point_pb2.SearchResult(status=to_status(EMPTY))]
    )

    good, refused, bad = convert.search_results(message, Batch("texts", 0, ["a", "c"], {1: convert._defect("no")}))

    assert [(h.id, h.score, h.text, h.metadata) for h in good] == [("1", 0.5, "t", {"a": [1, None]})]
    assert len(refused) == 0
    assert str(refused.error) == "no"
    assert str(bad.error) == "texts[2]: is empty"
    with pytest.raises(ItemErrors, match="2 of 3 items failed; the first is number 1: no"):
        convert.raise_search_errors([good, refused, bad])


def test_upsert_results_keep_their_places() -> None:
    message = point_pb2.UpsertResponse(results=[point_pb2.PointResult(id="2", token_count=3)], sequence=7)
    refusal = refused(Reason.DUPLICATE_ID, "points[0].id", "twice", id="1")
    kept = [(point_pb2.Point(id="2"), None)]

    result = convert.upsert_result(message, Batch("points", 0, kept, {0: refusal}))

    assert [(item.id, item.token_count) for item in result.items] == [("1", 0), ("2", 3)]
    assert result.items[0].error is refusal
    assert result.sequence == 7


def test_an_upsert_that_failed_whole_names_every_point() -> None:
    error = convert._defect("no")
    kept: list[Any] = [(point_pb2.Point(id="a"), None), (point_pb2.Point(id="b"), None)]

    assert [item.id for item in convert.failed_upsert_result(Batch("points", 0, kept), error).items] == ["a", "b"]


# ---- metadata ----

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values))
def test_metadata_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    """Equal in Python's sense, where 3.0 == 3; whole numbers come back as int."""
    assert from_struct(to_struct(metadata, "metadata")) == metadata


def test_whole_numbers_are_int_again_and_numpy_is_welcome() -> None:
    found = from_struct(to_struct({"a": 3.0, "b": np.int64(4), "c": np.float32(0.5), "d": True}, "m"))

    assert found == {"a": 3, "b": 4, "c": 0.5, "d": True}
    assert isinstance(found["a"], int)
    assert found["d"] is True


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({1: "x"}, TypeError, "m has the key 1, but keys must be str; write '1'"),
        ({"a": {"b": [0, object()]}}, TypeError, r"m\['a'\]\['b'\]\[1\] is a object, which JSON does not have"),
        ({"a": float("inf")}, ValueError, r"m\['a'\] is inf, which JSON does not have"),
        ({"a": 2**53 + 1}, ValueError, "more than a 64-bit float holds exactly"),
        ({"a": "\ud800"}, ValueError, "half a surrogate pair at character 0"),
        ("text", TypeError, "m must be a mapping of JSON values, got str"),
    ],
)
def test_what_json_does_not_have(metadata: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_struct(metadata, "m")


def test_vectors_know_their_number() -> None:
    assert len(Vectors(Encoding.FLOAT32, 4, MATRIX)) == 3


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]])
def test_metadata_may_be_as_deep_as_every_message_can_carry(wrap: Callable[[Any], Any]) -> None:
    deepest: Any = 1
    for _ in range(31):
        deepest = wrap(deepest)

    struct = to_struct({"a": deepest}, "m")
    hit = point_pb2.Hit(id="1", metadata=struct)
    response = point_pb2.StreamSearchResponse(results=[point_pb2.SearchResult(hits=[hit])])
    back = point_pb2.StreamSearchResponse.FromString(response.SerializeToString())
    assert from_struct(back.results[0].hits[0].metadata) == {"a": deepest}
    with pytest.raises(ValueError, match="nested more than 32 levels deep; flatten it"):
        to_struct({"a": wrap(deepest)}, "m")


def test_one_mapping_where_many_are_meant_is_refused() -> None:
    with pytest.raises(TypeError, match=r"metadata must be a sequence, got one dict; write \[metadata\]"):
        requests.points_of(["1"], ["a"], {"a": 1}, None)  # type: ignore[arg-type]


def test_a_number_beyond_float32_is_left_to_the_server_without_a_warning() -> None:
    [row] = requests.rows_of(np.full((1, 2), 1e300))

    assert np.isinf(row.values).all()
