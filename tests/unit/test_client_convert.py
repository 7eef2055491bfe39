"""Python values from responses; no sockets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.wire import vector_batch
from whit.client import EmbedResult, InternalError, ItemErrors, Vectors, WhitError
from whit.client import _convert as convert
from whit.client._metadata import to_struct
from whit.client._split import Batch, refused
from whit.contract.errors import FieldViolation, Problem, Reason, to_status
from whit.contract.vectors import Encoding, decode, encode
from whit.v1 import embedding_pb2, point_pb2, vector_pb2

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


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
    vectors = convert.vectors(vector_batch(MATRIX, encoding))

    assert (vectors.values.dtype, vectors.values.shape) == (dtype, (3, *row))
    assert vectors.dimension_count == 4
    assert not vectors.values.flags.owndata
    assert (None if vectors.scales is None else vectors.scales.shape) == scales
    if encoding is Encoding.BINARY:
        assert np.array_equal(vectors.to_float32(), np.where(MATRIX > 0, 1, -1))
    else:
        assert np.array_equal(vectors.to_float32(), decode(encode(MATRIX, encoding)))


def test_an_encoding_may_be_named_by_a_plain_string() -> None:
    vectors = Vectors("float32", 4, MATRIX)  # type: ignore[arg-type]

    assert vectors.encoding is Encoding.FLOAT32
    assert np.array_equal(vectors.to_float32(), MATRIX)
    with pytest.raises(ValueError, match="float33"):
        Vectors("float33", 4, MATRIX)  # type: ignore[arg-type]


def test_malformed_vectors_are_a_defect_of_the_server() -> None:
    message = vector_batch(MATRIX, Encoding.FLOAT32)
    message.data = message.data[:-1]

    with pytest.raises(InternalError, match="the server sent a malformed vector batch: data must have 48 bytes"):
        convert.vectors(message)


def test_an_encoding_of_the_future() -> None:
    with pytest.raises(InternalError, match="vector encoding 77, which this client does not know; upgrade whit"):
        convert.vectors(vector_pb2.VectorBatch(encoding=77))  # type: ignore[arg-type]


def response(matrix: Any, *statuses: Problem | None, fingerprint: str = "f", encodings: Any = ("float32",)) -> Any:
    items = [
        embedding_pb2.EmbedItem(token_count=5, used_token_count=5, status=to_status(problem) if problem else None)
        for problem in statuses
    ]
    return embedding_pb2.EmbedResponse(
        vectors=[vector_batch(matrix, Encoding(name)) for name in encodings],
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


def test_points_come_back_with_metadata_and_float32() -> None:
    message = point_pb2.GetResponse(
        points=[point_pb2.Point(id="1", text="a", metadata=to_struct({"n": 1}, "m")), point_pb2.Point(id="2")],
        vectors=vector_batch(MATRIX[:2], Encoding.INT8),
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


def test_vectors_know_their_number() -> None:
    assert len(Vectors(Encoding.FLOAT32, 4, MATRIX)) == 3
