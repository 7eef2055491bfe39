"""How the client splits what it is given: by number, bytes and kind, without losing, moving or cutting anything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.client import InvalidRequest, Point, Vectors
from whit.client._limits import answerable_count, points_batcher, query_batcher, room
from whit.client._requests import once_only, text_entry
from whit.client._split import Batch, Batcher, Entry, too_large
from whit.client._types import Limits
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding

OVERHEAD = text_entry("", 0).byte_count


def limits(**changes: int) -> Limits:
    values = {
        "batch_item_count": 1024,
        "text_byte_count": 1 << 20,
        "message_byte_count": 16 << 20,
        "metadata_byte_count": 65_536,
        "search_hit_count": 1000,
        "queue_token_count": 131_072,
        "stream_window_count": 8,
    }
    return Limits(**(values | changes))


def texts_batcher(item_count: int = 1000, byte_count: int = 10**9) -> Batcher[str]:
    return Batcher(text_entry, item_count=item_count, byte_count=byte_count)


@given(
    st.lists(st.text(max_size=40), min_size=1, max_size=50), st.integers(1, 10), st.integers(OVERHEAD, OVERHEAD + 100)
)
def test_batches_keep_order_and_limits(texts: list[str], item_count: int, byte_count: int) -> None:
    batches = list(texts_batcher(item_count, byte_count).split(texts))

    assert [batch.start for batch in batches] == [sum(map(len, batches[:i])) for i in range(len(batches))]
    for batch in batches:
        assert 1 <= len(batch) <= item_count
        assert sum(len(text.encode()) + OVERHEAD for text in batch.kept) <= byte_count
        assert [texts[batch.start + row] for row in batch.rows] == batch.kept
        assert all(len(texts[batch.start + row].encode()) + OVERHEAD > byte_count for row in batch.refused)
    assert sum(map(len, batches)) == len(texts)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_no_batch_could_have_taken_the_first_item_of_the_next(sizes: list[int]) -> None:
    byte_count = OVERHEAD * 4 + 100
    batches = list(texts_batcher(byte_count=byte_count).split("x" * size for size in sizes))

    for batch, following in pairwise(batches):
        taken = sum(len(text) + OVERHEAD for text in batch.kept)
        assert taken + len(following.kept[0]) + OVERHEAD > byte_count


def test_bytes_are_counted_not_characters() -> None:
    byte_count = 2 * OVERHEAD + 5

    assert len(list(texts_batcher(byte_count=byte_count).split(["ab", "cde"]))) == 1
    assert len(list(texts_batcher(byte_count=byte_count).split(["", "é…"]))) == 1  # 2 + 3 bytes
    assert len(list(texts_batcher(byte_count=byte_count).split(["a", "é…"]))) == 2


def test_no_items_are_one_empty_batch_for_the_server_to_refuse() -> None:
    assert list(texts_batcher().split([])) == [Batch("texts", 0)]


def test_a_text_that_no_message_holds_is_refused_alone() -> None:
    [batch] = texts_batcher(byte_count=1000).split(["a", "x" * 2000, "b"])

    assert batch.kept == ["a", "b"]
    assert batch.rows == [0, 2]
    assert [batch.place(0), batch.place(1)] == [0, 2]
    error = batch.refused[1]
    assert error.reason is Reason.TEXT_TOO_LONG
    assert str(error).startswith("texts[1]: has 20")
    assert "(message_byte_count); send it in shorter pieces" in str(error)


def test_half_a_surrogate_pair_is_an_error_of_its_item() -> None:
    [batch] = texts_batcher().split(["a", "\ud800", "b"])

    assert batch.kept == ["a", "b"]
    assert str(batch.refused[1]) == "texts[1]: has a lone surrogate, so it is not Unicode text; send valid text"


def test_a_wrong_type_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] must be str, got bytes"):
        list(texts_batcher().split(["a", b"b"]))  # type: ignore[list-item]


def test_places_count_over_all_batches() -> None:
    batches = list(texts_batcher(item_count=2).split(["a", "b", "\ud800", "c", "\ud800"]))

    assert [batch.start for batch in batches] == [0, 2, 4]
    assert batches[1].place(0) == 3
    assert "texts[4]" in str(batches[2].refused[0])


def test_a_batch_of_items_of_one_kind_only() -> None:
    batcher: Batcher[str] = Batcher(lambda item, _: Entry(item, 1, item[0]), item_count=10, byte_count=100)

    assert [batch.kept for batch in batcher.split(["a1", "a2", "b1", "a3"])] == [["a1", "a2"], ["b1"], ["a3"]]


def test_items_are_taken_one_at_a_time() -> None:
    taken = []

    def source() -> Iterator[str]:
        for text in "abcdef":
            taken.append(text)
            yield text

    batches = texts_batcher(item_count=2).split(source())

    assert next(batches).kept == ["a", "b"]
    assert taken == ["a", "b"]


# ---- points and queries ----


def test_points_with_and_without_vectors_go_in_different_batches() -> None:
    points = [Point("1", "a"), Point("2", "b", vector=np.ones(3)), Point("3", vector=np.ones(3)), Point("4", "c")]

    batches = list(points_batcher(limits(), 1024).split(points))

    assert [[point.id for point, _ in batch.kept] for batch in batches] == [["1"], ["2", "3"], ["4"]]


def test_points_of_one_id_are_all_refused_wherever_they_are() -> None:
    points = [Point(id_, "text") for id_ in ("a", "b", "c", "a")]
    batcher = points_batcher(limits(batch_item_count=2), 2, once_only(point.id for point in points))

    batches = list(batcher.split(points))

    assert [sorted(batch.refused) for batch in batches] == [[0], [1]]
    error = batches[1].refused[1]
    assert error.reason is Reason.DUPLICATE_ID
    assert error.violations[0].field == "points[3].id"
    assert error.metadata["id"] == "a"


def test_bad_metadata_is_an_error_of_its_point() -> None:
    points = [Point("1", "a", {"x": float("nan")}), Point("2", "b"), Point("3", "\udfff")]

    [batch] = points_batcher(limits(), 64).split(points)

    assert [point.id for point, _ in batch.kept] == ["2"]
    assert batch.refused[0].violations[0].field == "points[0].metadata['x']"
    assert "lone surrogate" in str(batch.refused[2])


def test_points_are_split_by_their_bytes() -> None:
    small = limits(message_byte_count=66_000, metadata_byte_count=1000)
    points = [Point(str(i), "x" * 30_000) for i in range(5)]

    batches = list(points_batcher(small, 64).split(points))

    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_queries_of_texts_and_vectors_may_be_mixed() -> None:
    batches = list(query_batcher(limits(), 64, 0).split(["a", "b", np.ones(4, np.float32), "c"]))

    assert [len(batch) for batch in batches] == [2, 1, 1]


# ---- the answer must fit too ----


def test_a_batch_is_small_enough_for_its_answer() -> None:
    many = limits(batch_item_count=65_536, message_byte_count=1 << 20)

    count = answerable_count(many, 1024, (Encoding.FLOAT32, Encoding.INT8))

    assert 150 < count < 200
    assert count * (1024 * 5 + 4) < 1 << 20
    assert answerable_count(limits(), 384, (Encoding.FLOAT32,)) == 1024
    assert answerable_count(limits(message_byte_count=65_536), 1 << 20, (Encoding.FLOAT32,)) == 1


def test_room_leaves_something_unless_the_options_take_it_all() -> None:
    assert room(limits(message_byte_count=10), 0) == 1
    with pytest.raises(
        InvalidRequest, match=r"the options have 100 bytes, .* holds 10 \(message_byte_count\); give a sh"
    ):
        room(limits(message_byte_count=10), 100)


def test_rows_of_vectors_of_the_client_keep_their_encoding() -> None:
    vectors = Vectors(Encoding.INT8, 4, np.ones((3, 4), np.int8), np.full(3, 0.5, np.float32))
    from whit.client._requests import many_queries

    [batch] = query_batcher(limits(), 64, 0).split(many_queries(vectors))

    assert {row.encoding for row in batch.kept} == {Encoding.INT8}
    assert [row.scale for row in batch.kept] == [0.5] * 3


@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda sent: sum(sent) >= 2))
def test_halves_have_all_items_in_order_and_both_send_something(sent: list[bool]) -> None:
    error = too_large("texts[0]", 2, 1)
    refused = {row: error for row, is_sent in enumerate(sent) if not is_sent}
    batch = Batch("texts", 5, [row for row, is_sent in enumerate(sent) if is_sent], refused)

    halves = batch.halves()

    assert [half.start for half in halves] == [5, 5 + len(halves[0])]
    assert sum(len(half) for half in halves) == len(sent)
    assert all(half.kept for half in halves)
    assert abs(len(halves[0].kept) - len(halves[1].kept)) <= 1
    for half in halves:
        for row, value in zip(half.rows, half.kept, strict=True):
            assert value == half.start - 5 + row
        assert {half.start - 5 + row for row in half.refused} <= refused.keys()
