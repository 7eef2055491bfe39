"""Collections and points over a real socket: written, read, found, deleted; and every way to ask wrongly."""

import grpc
import numpy as np
import pytest

from tests.support.server import DIMENSION_COUNT, rows, server_thread, tiny_package
from tests.support.wire import MODEL, connected, item_problem, matrix, point, refused, vector_batch
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.v1 import collection_pb2, embedding_pb2, point_pb2, vector_pb2

NAN = float("nan")


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    packages = [tiny_package(), tiny_package("plain", prompts=False)]
    data = tmp_path_factory.mktemp("data")
    with server_thread(data, models=packages, metadata_byte_count=200) as address, connected(address) as found:
        yield found


# Collections.


def test_a_collection_lives_and_dies(wire):
    name = wire.new_collection(dimension_count=16, storage=vector_pb2.VECTOR_ENCODING_INT8)
    wire.upsert(name, [point("a", "one"), point("b", "two")])
    got = wire.collections.GetCollection(collection_pb2.GetCollectionRequest(name=name)).collection
    assert (got.name, got.model, got.dimension_count, got.point_count) == (name, MODEL, 16, 2)
    assert got.storage == vector_pb2.VECTOR_ENCODING_INT8
    assert got.model_fingerprint == wire.embed("a").model_fingerprint
    assert got.create_time.seconds > 1_700_000_000
    deleted = wire.collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))
    assert deleted.deleted_point_count == 2
    problem = refused(lambda: wire.count(name))
    assert problem.reason is Reason.COLLECTION_NOT_FOUND
    assert problem.status_code is grpc.StatusCode.NOT_FOUND


def test_collections_are_listed_in_pages(wire):
    for i in range(5):
        wire.new_collection(name=f"collections/page-{i}")
    names, token, pages = [], "", 0
    while pages == 0 or token:
        request = collection_pb2.ListCollectionsRequest(page_size=2, page_token=token)
        found = wire.collections.ListCollections(request)
        names += [c.name for c in found.collections]
        token, pages = found.next_page_token, pages + 1
    assert names == sorted(set(names))
    assert {f"collections/page-{i}" for i in range(5)} <= set(names)
    assert pages == -(-len(names) // 2)


@pytest.mark.parametrize(
    ("page_size", "page_token", "field"), [(-1, "", "page_size"), (1001, "", "page_size"), (0, "x", "page_token")]
)
def test_bad_pages_are_refused(wire, page_size, page_token, field):
    request = collection_pb2.ListCollectionsRequest(page_size=page_size, page_token=page_token)
    assert refused(lambda: wire.collections.ListCollections(request)).violations[0].field == field


def test_a_collection_is_made_once(wire):
    name = wire.new_collection()
    problem = refused(lambda: wire.new_collection(name=name))
    assert problem.reason is Reason.COLLECTION_EXISTS
    assert problem.status_code is grpc.StatusCode.ALREADY_EXISTS


def test_everything_wrong_with_a_new_collection_is_said_at_once(wire):
    problem = refused(lambda: wire.new_collection(name="collections/UP", model="tiny", storage=9, dimension_count=-1))
    fields = {v.field for v in problem.violations}
    assert fields == {f"collection.{f}" for f in ("name", "model", "storage", "dimension_count")}


def test_a_new_collection_cannot_store_bits_or_more_dimensions_than_the_model_has(wire):
    problem = refused(lambda: wire.new_collection(storage=vector_pb2.VECTOR_ENCODING_BINARY))
    assert "got BINARY" in problem.message
    problem = refused(lambda: wire.new_collection(dimension_count=DIMENSION_COUNT + 1))
    assert problem.violations[0].field == "collection.dimension_count"
    assert refused(lambda: wire.new_collection(model="models/other")).reason is Reason.MODEL_NOT_FOUND


# Points.


def test_points_are_written_read_found_and_deleted(wire):
    name = wire.new_collection()
    metadata = {"lang": "en", "n": 3, "ratio": 0.5, "tags": ["x", None, True], "deep": {"a": {}}}
    written = wire.upsert(name, [point("a", "water and land", **metadata), point("b", "school and work")])
    assert [r.id for r in written.results] == ["a", "b"]
    assert not any(r.HasField("status") for r in written.results)
    # The default role is "document" ("text: " is two tokens here).
    assert written.results[0].token_count == wire.embed("text: water and land").items[0].token_count
    got = wire.get(name, "b", "no", "a", with_vectors=True)
    assert [p.id for p in got.points] == ["b", "a"]
    assert got.points[1].text == "water and land"
    assert got.points[1].metadata == point("a", "", **metadata).metadata
    assert not got.points[0].HasField("metadata")
    assert list(got.missing_ids) == ["no"]
    expected = wire.embed("school and work", "water and land", role="document").vectors[0]
    np.testing.assert_array_equal(matrix(got.vectors), matrix(expected))
    (result,) = wire.search(name, "water and land", limit=1).results
    assert (result.hits[0].id, result.hits[0].text) == ("a", "water and land")
    assert result.hits[0].metadata == got.points[1].metadata
    deleted = wire.points.Delete(point_pb2.DeleteRequest(collection=name, ids=["a", "no"]))
    assert (deleted.deleted_count, list(deleted.missing_ids)) == (1, ["no"])
    assert deleted.sequence > written.sequence
    assert wire.count(name) == 1


def test_a_point_is_replaced_by_one_with_its_id(wire):
    name = wire.new_collection()
    first = wire.upsert(name, [point("a", "one", x=1)])
    second = wire.upsert(name, [point("a", "two")])
    assert second.sequence > first.sequence
    assert wire.get(name, "a").points[0] == point("a", "two")
    assert wire.count(name) == 1


def test_roles_are_honoured(wire):
    name = wire.new_collection()
    wire.upsert(name, [point("a", "one two")], role="query")
    stored = matrix(wire.get(name, "a", with_vectors=True).vectors)
    np.testing.assert_array_equal(stored, matrix(wire.embed("one two", role="query").vectors[0]))
    # The default role of a query is "query", so it meets that vector exactly.
    assert wire.search(name, "one two").results[0].hits[0].score == pytest.approx(1, abs=1e-6)
    assert wire.search(name, "one two", role="document").results[0].hits[0].score < 0.9999


def test_a_package_without_prompts_gets_none(wire):
    name = wire.new_collection(model="models/plain")
    assert wire.upsert(name, [point("a", "one two")]).results[0].token_count == 4


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8])
@pytest.mark.parametrize("storage", [1, 2, 3, 5, 6, 7])
def test_vectors_are_taken_in_every_encoding_and_storage(wire, encoding, storage):
    name = wire.new_collection(storage=storage)
    vectors = rows(8)
    written = wire.upsert(name, [point(str(i), "kept") for i in range(8)], vectors=vector_batch(vectors, encoding))
    assert not any(r.HasField("status") or r.token_count for r in written.results)
    found = wire.search(name, vectors=vector_batch(vectors, encoding), limit=1)
    assert [r.hits[0].id for r in found.results] == [str(i) for i in range(8)]
    lost = 0.15 if storage == vector_pb2.VECTOR_ENCODING_BITS_2 else 4e-2
    assert all(r.hits[0].score == pytest.approx(1, abs=lost) and r.hits[0].text == "kept" for r in found.results)
    assert found.timing.embed_time_us == 0


def test_search_options(wire):
    name = wire.new_collection()
    vectors = np.eye(4, DIMENSION_COUNT, dtype=np.float32)
    wire.upsert(name, [point(i, "t", k=i) for i in "abcd"], vectors=vector_batch(vectors))
    query = vector_batch(vectors[0] + 0.5 * vectors[1])
    ids = lambda **options: [h.id for h in wire.search(name, vectors=query, **options).results[0].hits]  # noqa: E731
    assert ids() == ids(exact=True) == ["a", "b", "c", "d"]
    assert ids(limit=2) == ["a", "b"]
    assert ids(score_threshold=0.4) == ["a", "b"]
    assert ids(score_threshold=1) == []
    hit = wire.search(name, vectors=query, without_payload=True).results[0].hits[0]
    assert (hit.id, hit.text, hit.HasField("metadata")) == ("a", "", False)


def test_an_empty_collection_gives_no_hits(wire):
    assert not wire.search(wire.new_collection(), "anything").results[0].hits


def test_a_long_text_is_cut_for_the_vector_but_kept_whole(wire):
    name = wire.new_collection()
    text = "word " * 100
    assert item_problem(wire.upsert(name, [point("a", text)]).results[0]).reason is Reason.TEXT_TOO_LONG
    assert wire.count(name) == 0
    (result,) = wire.upsert(name, [point("a", text)], on_overflow=embedding_pb2.OVERFLOW_POLICY_TRUNCATE).results
    assert result.truncated
    assert result.used_token_count == 64 < result.token_count
    assert wire.get(name, "a").points[0].text == text


def test_nul_bytes_in_ids_texts_and_metadata_are_kept(wire):
    name = wire.new_collection()
    given = point("a\0b", "one\0two", k="x\0y")
    assert not wire.upsert(name, [given, point("a", "other")]).results[0].HasField("status")
    assert wire.get(name, "a\0b").points[0] == given
    assert wire.count(name) == 2


# Bad input.


def test_bad_points_fail_alone_and_the_others_are_written(wire):
    name = wire.new_collection()
    bad_number = point("nan")
    bad_number.text = "t"
    bad_number.metadata.fields["x"].number_value = NAN
    no_kind = point("kind", "t")
    no_kind.metadata.fields["x"].SetInParent()
    given = [
        point("good", "one"),
        point("", "no id"),
        point("i" * 257, "long id"),
        point("empty", ""),
        point("twice", "a"),
        point("twice", "b"),
        point("big", "t", x="y" * 200),
        bad_number,
        no_kind,
        point("ten", "x" * 10_000_000),
        point("last", "two"),
    ]
    written = wire.upsert(name, given)
    found = [(p.reason.value, p.violations[0].field) if (p := item_problem(r)) else None for r in written.results]
    assert found == [
        None,
        ("INVALID_REQUEST", "points[1].id"),
        ("INVALID_REQUEST", "points[2].id"),
        ("EMPTY_TEXT", "points[3].text"),
        ("DUPLICATE_ID", "points[4].id"),
        ("DUPLICATE_ID", "points[5].id"),
        ("INVALID_REQUEST", "points[6].metadata"),
        ("INVALID_REQUEST", "points[7].metadata"),
        ("INVALID_REQUEST", "points[8].metadata"),
        ("TEXT_TOO_LONG", "points[9].text"),
        None,
    ]
    assert "200 (metadata_byte_count)" in item_problem(written.results[6]).message
    assert wire.count(name) == 2
    assert [p.id for p in wire.get(name, "good", "last", "twice").points] == ["good", "last"]


def test_a_batch_of_bad_points_only_writes_nothing(wire):
    name = wire.new_collection()
    sequence = wire.upsert(name, [point("a", "one")]).sequence
    assert wire.upsert(name, [point("b", "")]).sequence == sequence


def test_vectors_that_are_not_finite_or_zero_fail_alone(wire):
    name = wire.new_collection()
    vectors = rows(4)
    vectors[1, 3], vectors[2, 0], vectors[3] = NAN, np.inf, 0
    written = wire.upsert(name, [point(i) for i in "abcd"], vectors=vector_batch(vectors))
    problems = [item_problem(r) for r in written.results]
    assert problems[0] is None
    assert {p.reason for p in problems[1:]} == {Reason.INVALID_VECTOR}
    assert [p.violations[0].field for p in problems[1:]] == ["vectors[1]", "vectors[2]", "vectors[3]"]
    assert wire.count(name) == 1
    found = wire.search(name, vectors=vector_batch(vectors))
    assert [len(r.hits) for r in found.results] == [1, 0, 0, 0]
    assert {item_problem(r).reason for r in found.results[1:]} == {Reason.INVALID_VECTOR}


def wrong_forms():
    good = vector_batch(np.ones((2, DIMENSION_COUNT)))
    yield "dimension_count", vector_batch(np.ones((2, DIMENSION_COUNT - 1)))
    yield "count", vector_batch(np.ones((3, DIMENSION_COUNT)))
    for field, changes in (
        ("", {"data": good.data[:-1]}),
        ("", {"scales": b"1234"}),
        ("encoding", {"encoding": vector_pb2.VECTOR_ENCODING_BINARY}),
        ("encoding", {"encoding": vector_pb2.VECTOR_ENCODING_BITS_4}),
        ("encoding", {"encoding": 77}),
        ("", {"encoding": vector_pb2.VECTOR_ENCODING_INT8}),
    ):
        made = vector_pb2.VectorBatch()
        made.CopyFrom(good)
        for name, value in changes.items():
            setattr(made, name, value)
        yield field, made


@pytest.mark.parametrize(("field", "vectors"), list(wrong_forms()))
def test_vectors_of_the_wrong_form_are_refused(wire, field, vectors):
    name = wire.new_collection()
    problem = refused(lambda: wire.upsert(name, [point("a"), point("b")], vectors=vectors))
    assert problem.reason is Reason.INVALID_VECTOR
    assert problem.violations[0].field == f"vectors.{field}".rstrip(".")
    assert wire.count(name) == 0
    if field != "count":
        problem = refused(lambda: wire.search(name, vectors=vectors))
        assert problem.reason is Reason.INVALID_VECTOR


def test_empty_batches_are_refused(wire):
    name = wire.new_collection()
    assert refused(lambda: wire.upsert(name, [])).violations[0].field == "points"
    assert refused(lambda: wire.search(name)).violations[0].field == "texts"
    assert refused(lambda: wire.get(name)).violations[0].field == "ids"
    assert refused(lambda: wire.search(name, vectors=vector_batch(np.ones((0, DIMENSION_COUNT))))).violations


def test_bad_search_options_are_refused_at_once(wire):
    name = wire.new_collection()
    problem = refused(lambda: wire.search(name, "a", limit=-1, score_threshold=NAN, on_overflow=5))
    assert {v.field for v in problem.violations} == {
        f"options.{f}" for f in ("limit", "score_threshold", "on_overflow")
    }
    assert refused(lambda: wire.search(name, "a", limit=1001)).violations[0].field == "options.limit"
    assert refused(lambda: wire.search(name, "a", role="poet")).violations[0].field == "options.role"
    assert refused(lambda: wire.search(name, "a", vectors=vector_batch(rows(1)))).violations[0].field == "vectors"
    assert refused(lambda: wire.search("notes", "a")).violations[0].field == "options.collection"


def test_a_bad_query_text_fails_alone(wire):
    name = wire.new_collection()
    wire.upsert(name, [point("a", "one")])
    found = wire.search(name, "one", "", "word " * 100).results
    assert len(found[0].hits) == 1
    assert item_problem(found[1]).reason is Reason.EMPTY_TEXT
    assert item_problem(found[2]).violations[0].field == "texts[2]"


def test_bad_ids_are_refused(wire):
    name = wire.new_collection()
    problem = refused(lambda: wire.get(name, "ok", "", "i" * 300))
    assert [v.field for v in problem.violations] == ["ids[1]", "ids[2]"]


def test_bad_options_of_upsert_are_refused(wire):
    name = wire.new_collection()
    problem = refused(lambda: wire.upsert(name, [point("a", "b")], on_overflow=9))
    assert problem.violations[0].field == "on_overflow"
    assert refused(lambda: wire.upsert(name, [point("a", "b")], role="poet")).violations[0].field == "role"
    assert refused(lambda: wire.upsert("x", [point("a", "b")])).violations[0].field == "collection"
