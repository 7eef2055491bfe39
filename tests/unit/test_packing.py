"""The packed layout: what goes into the grid comes out again, and micro-batches split any load the same safe way."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.runtime.packing import attention_length, micro_batches, pack

token_counts = st.lists(st.integers(1, 70), min_size=1, max_size=12)


def sequences_of(counts: list[int]) -> list[np.ndarray]:
    random = np.random.default_rng(len(counts))
    return [random.integers(0, 1000, count) for count in counts]


def test_pack_of_two_texts_by_hand() -> None:
    feeds = pack([np.array([7, 8, 9]), np.array([5])], length=4, position_offset=2)

    assert feeds["input_ids"].tolist() == [7, 8, 9, 5]
    assert feeds["position_ids"].tolist() == [2, 3, 4, 2]
    assert feeds["gather_idx"].tolist() == [[0, 1, 2, 0], [3, 0, 0, 0]]
    assert feeds["key_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert feeds["scatter_idx"].tolist() == [0, 1, 2, 4]


def test_pack_gives_the_types_that_the_graph_declares() -> None:
    feeds = pack([np.array([7, 8])], length=16, position_offset=0)

    types = {name: array.dtype.name for name, array in feeds.items()}
    assert types == {
        "input_ids": "int64",
        "position_ids": "int64",
        "gather_idx": "int64",
        "key_mask": "float32",
        "scatter_idx": "int64",
    }


@given(token_counts, st.integers(0, 3))
def test_gather_to_the_grid_and_scatter_back_is_the_identity(counts: list[int], offset: int) -> None:
    sequences = sequences_of(counts)
    length = attention_length(max(counts), 16)
    feeds = pack(sequences, length=length, position_offset=offset)

    grid = feeds["input_ids"][feeds["gather_idx"]]
    assert grid.shape == (len(counts), length)
    assert np.array_equal(grid.ravel()[feeds["scatter_idx"]], np.concatenate(sequences))
    for row, mask, ids in zip(grid, feeds["key_mask"], sequences, strict=True):
        assert np.array_equal(row[mask == 1], ids)
        assert mask.tolist() == [1.0] * len(ids) + [0.0] * (length - len(ids))


@given(token_counts, st.integers(0, 3))
def test_positions_begin_anew_in_every_text(counts: list[int], offset: int) -> None:
    feeds = pack(sequences_of(counts), length=80, position_offset=offset)

    assert feeds["position_ids"].tolist() == [offset + i for count in counts for i in range(count)]


@given(token_counts)
def test_a_text_has_the_same_rows_in_any_company(counts: list[int]) -> None:
    sequences = sequences_of(counts)
    alone = pack(sequences[-1:], length=80, position_offset=0)
    together = pack(sequences, length=80, position_offset=0)

    assert np.array_equal(together["key_mask"][-1:], alone["key_mask"])
    assert np.array_equal(together["input_ids"][-counts[-1] :], alone["input_ids"])
    assert np.array_equal(together["position_ids"][-counts[-1] :], alone["position_ids"])


@pytest.mark.parametrize(("count", "expected"), [(1, 16), (15, 16), (16, 16), (17, 32), (256, 256)])
def test_attention_length_rounds_up(count: int, expected: int) -> None:
    assert attention_length(count, 16) == expected


@pytest.mark.parametrize(("count", "expected"), [(240, 240), (241, 272), (255, 272), (256, 256), (257, 272)])
def test_unmasked_length_is_left_to_texts_that_fill_it(count: int, expected: int) -> None:
    assert attention_length(count, 16, 256) == expected


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 40), st.integers(1, 600))
def test_micro_batches_cover_every_text_once_within_the_budget(counts: list[int], bucket: int, budget: int) -> None:
    length_of = partial(attention_length, bucket=bucket)
    batches = list(micro_batches(counts, length_of=length_of, token_budget=budget))

    assert sorted(i for batch in batches for i in batch) == list(range(len(counts)))
    for batch in batches:
        assert batch
        assert len({length_of(counts[i]) for i in batch}) == 1
        assert len(batch) == 1 or sum(counts[i] for i in batch) <= budget


def test_micro_batches_of_nothing() -> None:
    assert list(micro_batches([], length_of=partial(attention_length, bucket=16), token_budget=100)) == []


def test_micro_batches_fill_up() -> None:
    assert list(micro_batches([4, 40, 4, 4, 33], length_of=partial(attention_length, bucket=16), token_budget=80)) == [
        [0, 2, 3],
        [4, 1],
    ]
