"""CollectionHandle: what is written is read back as stored; bad input and failing disks leave nothing behind."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from whit.contract.errors import Reason
from whit.contract.vectors import Encoding, decode, encode
from whit.server.errors import ServiceError
from whit.server.index import CollectionStore, PointWrite, StoredPoint

DIMENSIONS = 8
STORAGES = (Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.BITS_4, Encoding.BITS_3, Encoding.BITS_2)


@pytest.fixture
def make(tmp_path):
    with CollectionStore(tmp_path, background=False) as store:

        def make(storage=Encoding.FLOAT32):
            store.create("c", model_id="m", fingerprint="f", dimension_count=DIMENSIONS, storage=storage)
            return store.open("c")

        yield make


def vectors(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)


def points(*ids, text="text of {}"):
    return [PointWrite(id_, text.format(id_), f'{{"id": "{id_}"}}') for id_ in ids]


@contextmanager
def refused(reason, *fields):
    with pytest.raises(ServiceError) as caught:
        yield
    problem = caught.value.problem
    assert problem.reason is reason, problem.message
    assert [violation.field for violation in problem.violations] == list(fields)


@pytest.mark.parametrize("storage", STORAGES)
def test_points_are_read_back_in_the_order_asked_for_as_stored(make, storage):
    handle, written = make(storage), vectors(3)
    handle.upsert(points("a", "b", "c"), written)
    found, missing, encoded = handle.get(["c", "nothing", "a"], with_vectors=True)
    assert found == [StoredPoint(id_, f"text of {id_}", f'{{"id": "{id_}"}}') for id_ in "ca"]
    assert missing == ["nothing"]
    assert encoded == encode(written[[2, 0]], storage)
    np.testing.assert_allclose(decode(encoded), written[[2, 0]], atol=1.0 if storage.bits else 0.02)


def test_vectors_come_only_when_asked_for(make):
    handle = make()
    handle.upsert(points("a"), vectors(1))
    assert handle.get(["a"], with_vectors=False)[2] is None
    assert handle.get([], with_vectors=True)[2] == encode(vectors(0), Encoding.FLOAT32)


def test_no_more_is_read_than_an_answer_may_hold(make):
    handle = make()
    handle.upsert([PointWrite(str(i), "x" * 1000) for i in range(50)], vectors(50))
    ids, query = [str(i) for i in range(50)], vectors(1)

    assert len(handle.get(ids, with_vectors=True, byte_limit=60_000)[0]) == 50
    assert len(handle.search(query, limit=50, byte_limit=60_000)[0]) == 50
    assert len(handle.search(query, limit=50, byte_limit=100, with_payload=False)[0]) == 50
    with refused(Reason.INVALID_REQUEST):
        handle.get(ids, with_vectors=False, byte_limit=40_000)
    with refused(Reason.INVALID_REQUEST):
        handle.search(query, limit=50, byte_limit=40_000)
    assert handle.count() == 50


@pytest.mark.parametrize("text", ["", "NUL \0 inside", "\U0001f600 ünïcödé", "long " * 100_000])
def test_texts_come_back_to_the_letter(make, text):
    handle = make()
    handle.upsert([PointWrite(text[:50] or "empty", text)], vectors(1))
    assert handle.get([text[:50] or "empty"], with_vectors=False)[0] == [StoredPoint(text[:50] or "empty", text)]


def test_more_ids_than_one_statement_takes(make):
    handle, ids = make(), [str(i) for i in range(1300)]
    handle.upsert(points(*ids), vectors(1300))
    assert [point.id for point in handle.get(ids, with_vectors=False)[0]] == ids


def test_upsert_over_an_id_replaces_text_and_vector(make):
    handle = make()
    handle.upsert(points("a", "b"), vectors(2))
    handle.upsert(points("b", "c", text="new {}"), vectors(2, seed=1))
    found, _, encoded = handle.get(["a", "b", "c"], with_vectors=True)
    assert [point.text for point in found] == ["text of a", "new b", "new c"]
    np.testing.assert_array_equal(decode(encoded), [vectors(2)[0], *vectors(2, seed=1)])
    assert handle.count() == 3
    (hits,) = handle.search(vectors(2)[1:], limit=10)  # the old vector of b is gone
    assert hits[0].score < 0.99


def test_delete_tells_the_missing_and_forgets_the_point(make):
    handle = make()
    handle.upsert(points("a", "b"), vectors(2))
    assert handle.delete(["b", "x", "b"]) == (1, ["x"], 2)
    assert handle.count() == 1
    assert handle.get(["b"], with_vectors=False)[1] == ["b"]
    assert [hit.id for hit in handle.search(vectors(1), limit=10)[0]] == ["a"]


def test_the_sequence_grows_with_every_change_and_only_then(make):
    handle = make()
    assert handle.upsert([], vectors(0)) == 0
    assert handle.upsert(points("a", "b"), vectors(2)) == 1
    assert handle.upsert(points("a"), vectors(1)) == 2
    assert handle.delete(["a"])[2] == 3
    assert handle.delete(["a"])[2] == 3
    assert handle.upsert(points("a"), vectors(1)) == 4


def test_an_id_twice_in_a_batch_is_refused_and_nothing_written(make):
    handle = make()
    with refused(Reason.DUPLICATE_ID, "points[2].id", "points[3].id"):
        handle.upsert(points("a", "b", "a", "b"), vectors(4))
    assert handle.count() == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 3e38, 1e-30])
def test_a_vector_that_has_no_cosine_is_refused_by_row(make, storage, value):
    handle, written = make(storage), vectors(3)
    written[1:] = value
    with refused(Reason.INVALID_VECTOR, "vectors[1]", "vectors[2]"):
        handle.upsert(points("a", "b", "c"), written)
    with refused(Reason.INVALID_VECTOR, "vectors[1]", "vectors[2]"):
        handle.search(written, limit=1)
    assert handle.count() == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("length", [0.02, 5e3])
def test_lengths_do_not_matter_to_the_score(make, storage, length):
    handle, direction = make(storage), vectors(1) / np.linalg.norm(vectors(1))
    handle.upsert(points("a"), (direction * length).astype(np.float32))
    stored = decode(encode(direction, storage))[0]
    expected = float(direction[0] @ stored / np.linalg.norm(stored))
    assert handle.search(direction, limit=1)[0][0].score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [np.ones((2, DIMENSIONS + 1)), np.ones((1, DIMENSIONS)), np.ones(DIMENSIONS), np.ones((2, DIMENSIONS), "f8")],
)
def test_a_wrong_shape_or_type_is_refused(make, wrong):
    handle = make()
    wrong = wrong.astype(np.float32) if wrong.shape != (2, DIMENSIONS) else wrong
    with refused(Reason.INVALID_VECTOR, "vectors"):
        handle.upsert(points("a", "b"), wrong)


def test_a_search_of_the_wrong_dimension_or_limit_is_refused(make):
    handle = make()
    with refused(Reason.INVALID_VECTOR, "vectors"):
        handle.search(np.ones((1, DIMENSIONS - 1), np.float32), limit=1)
    with refused(Reason.INVALID_REQUEST, "limit"):
        handle.search(vectors(1), limit=0)


def test_a_full_disk_is_told_leaves_nothing_and_passes(make):
    handle, big = make(), "x" * 50_000
    handle.upsert(points("a", "b"), vectors(2))
    writer = handle._database._writer
    writer.execute(f"PRAGMA max_page_count = {writer.execute('PRAGMA page_count').fetchone()[0] + 2}")
    with refused(Reason.STORAGE_FULL):
        handle.upsert(points("b", "c", text=big), vectors(2, seed=1))
    found, missing, encoded = handle.get(["a", "b", "c"], with_vectors=True)
    assert [point.text for point in found] == ["text of a", "text of b"]
    assert missing == ["c"]
    np.testing.assert_array_equal(decode(encoded), vectors(2))
    assert [hit.id for hit in handle.search(vectors(2)[1:], limit=5)[0]] == ["b", "a"]
    assert handle.delete(["a"]) == (1, [], 2)
    writer.execute("PRAGMA max_page_count = 1000000")
    assert handle.upsert(points("b", "c", text=big), vectors(2, seed=1)) == 3
    assert handle.count() == 2


def test_a_database_that_another_program_holds_is_told(make, tmp_path):
    handle = make()
    handle._database._writer.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(tmp_path / "collections" / "c" / "points.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with refused(Reason.STORAGE_FAILED):
        handle.upsert(points("a"), vectors(1))
    other.close()
    assert handle.upsert(points("a"), vectors(1)) == 1


def test_a_text_that_is_not_unicode_leaves_nothing(make):
    handle = make()
    with pytest.raises(UnicodeEncodeError):
        handle.upsert([*points("a"), PointWrite("b", "\ud800")], vectors(2))
    assert handle.count() == 0
    assert handle.upsert(points("a"), vectors(1)) == 1


def test_threads_write_search_and_delete_at_once(make):
    handle, written = make(), vectors(64)

    def work(number):
        ids = [f"{number}-{i}" for i in range(8)]
        for _ in range(3):
            handle.upsert(points(*ids), written[number * 8 : number * 8 + 8])
            (hits,) = handle.search(written[number * 8 : number * 8 + 1], limit=1)
            assert hits[0].id == ids[0]
            assert hits[0].text == f"text of {ids[0]}"
        return handle.delete(ids[4:])[0]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 32
    assert handle.count() == 32
    assert handle.delete([])[2] == 8 * 4
