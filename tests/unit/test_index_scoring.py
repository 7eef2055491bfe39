"""Cosines: checked against float64, and the same whatever stands beside a row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whit.contract.vectors import Encoding, decode, encode
from whit.server.index.rows import to_rows
from whit.server.index.scoring import best, cosines, make_block, merge, unit


def vectors(count, dimension_count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dimension_count)).astype(np.float32)


def block_of(rows, storage=Encoding.FLOAT32):
    encoded = encode(rows, storage)
    return make_block(
        [(n + 1, f"p{n:03}", blob) for n, (_, blob) in enumerate(to_rows(encoded))], storage, rows.shape[1]
    )


@pytest.mark.parametrize("storage", [e for e in Encoding if e is not Encoding.BINARY])
def test_cosines_are_those_of_the_decoded_vectors(storage):
    rows, query = vectors(20, 33), vectors(1, 33, seed=1)[0]
    decoded = decode(encode(rows, storage)).astype(np.float64)
    expected = decoded @ query / np.linalg.norm(decoded, axis=1) / np.linalg.norm(query.astype(np.float64))
    np.testing.assert_allclose(cosines(block_of(rows, storage).rows, query), expected, atol=1e-7)


@given(st.integers(1, 70), st.integers(1, 400), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_score_does_not_depend_on_the_rows_beside(count, dimension_count, seed):
    rows, query = vectors(count, dimension_count, seed), vectors(1, dimension_count, seed + 1)[0]
    together = cosines(rows, query)
    alone = np.concatenate([cosines(rows[n : n + 1], query) for n in range(count)])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("chunk", [1, 7, 50, 200])
def test_merging_chunks_gives_the_best_of_all(chunk):
    rows, queries = vectors(200, 16), unit(vectors(3, 16, seed=1))
    rows[100:120] = rows[50]
    found = [[], [], []]
    whole = block_of(rows)
    for start in range(0, 200, chunk):
        part = slice(start, start + chunk)
        merge(
            found,
            type(whole)(whole.keys[part], whole.ids[part], whole.rows[part], whole.inverse_lengths[part]),
            queries,
            15,
        )
    for candidates, query in zip(found, queries, strict=True):
        scores = cosines(rows, query)
        order = sorted(range(200), key=lambda n: (-scores[n], n))[:15]
        assert [c.id for c in candidates] == [f"p{n:03}" for n in order]


def test_best_drops_repeats_and_orders_by_id_within_a_score():
    found = [[]]
    block = block_of(np.ones((4, 2), np.float32))
    merge(found, block, unit(np.ones((1, 2), np.float32)), 3)
    assert [c.id for c in best(found[0] + found[0], 10)] == ["p000", "p001", "p002"]


def test_a_vector_of_the_wrong_size_is_named():
    with pytest.raises(ValueError, match="'odd' has 7 bytes instead of 8"):
        make_block([(1, "odd", b"1234567")], Encoding.FLOAT32, 2)


def test_unit_keeps_directions_of_any_length():
    rows = vectors(5, 9) * np.array([[1e-14], [1e-3], [1], [1e6], [1e14]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit(rows), axis=1), 1, atol=1e-6)
    assert (np.sign(unit(rows)) == np.sign(rows)).all()
