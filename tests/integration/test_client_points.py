"""Both clients against a real server with low limits: collections, points and search."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clients import KINDS, MODEL, TEXTS, limited_server, open_client
from tests.support.server import DIMENSION_COUNT, rows, server_thread, tiny_package
from whit.client import AlreadyExists, Client, FailedPrecondition, InvalidRequest, ItemErrors, NotFound, Point, Reason


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with limited_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture(params=KINDS)
def whit(request: pytest.FixtureRequest, address: str) -> Iterator[Client]:
    with open_client(request.param, address) as client:
        yield client


_names = itertools.count()


@pytest.fixture
def notes(whit: Client) -> Iterator[str]:
    """An empty collection."""
    name = f"notes-{next(_names)}"
    whit.create_collection(name, model=MODEL)
    yield name
    whit.delete_collection(name)


# ---- collections ----


def test_collections(whit: Client) -> None:
    name = f"c-{next(_names)}"
    made = whit.create_collection(name, model=MODEL, storage="int8", dimension_count=16)

    assert (made.name, made.model, made.storage, made.dimension_count, made.point_count) == (name, MODEL, "int8", 16, 0)
    assert made.fingerprint == whit.model(MODEL).fingerprint
    assert made.create_time.tzinfo is not None
    assert whit.collection(name) == made
    assert made in whit.collections()
    with pytest.raises(AlreadyExists):
        whit.create_collection(name, model=MODEL)
    assert whit.create_collection(name, model=MODEL, storage="int8", exist_ok=True) == made
    for other in (
        {"storage": "float32"},
        {"storage": "int8", "model": "other"},
        {"storage": "int8", "dimension_count": 8},
    ):
        with pytest.raises(AlreadyExists, match=r"exists with model .*, storage int8 and dimension_count 16; asked"):
            whit.create_collection(name, **({"model": MODEL, "exist_ok": True} | other))  # type: ignore[arg-type]
    assert whit.delete_collection(name) == 0
    with pytest.raises(NotFound):
        whit.collection(name)


def test_a_collection_that_is_not_there(whit: Client) -> None:
    calls: Sequence[Any] = [
        lambda: whit.count("nix"),
        lambda: whit.search("nix", "a"),
        lambda: whit.upsert("nix", ids=["1"], texts=["a"]),
        lambda: list(whit.upsert_stream("nix", [Point("1", "a")])),
        lambda: list(whit.search_stream("nix", ["a"])),
        lambda: whit.get("nix", ["1"]),
        lambda: whit.delete("nix", ["1"]),
        lambda: whit.delete_collection("nix"),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason is Reason.COLLECTION_NOT_FOUND


# ---- points ----


def test_points_come_back_as_they_were_written(whit: Client, notes: str) -> None:
    ids = [f"id {i}" for i in range(40)]
    metadata = [{"n": i, "tags": ["a", None, {"b": 0.5}]} for i in range(40)]

    written = whit.upsert(notes, ids=ids, texts=TEXTS[:40], metadata=metadata)

    assert [item.id for item in written.items] == ids
    assert all(item.error is None and item.token_count > 2 for item in written.items)
    assert whit.count(notes) == 40
    points = whit.get(notes, [ids[39], "not there", ids[0]], with_vectors=True)
    assert [(p.id, p.text, p.metadata) for p in points] == [
        (ids[39], TEXTS[39], metadata[39]), (ids[0], TEXTS[0], metadata[0]),
    ]  # fmt: skip
    expected = whit.embed([TEXTS[39]], model=MODEL, role="document").vectors[0]
    assert points[0].vector == pytest.approx(expected, abs=1e-6)
    assert whit.get(notes, [ids[1]])[0].vector is None
    assert [p.id for p in whit.get(notes, ids)] == ids
    gone = whit.delete(notes, [*ids[:30], "not there"])
    assert (gone.deleted_count, gone.missing_ids) == (30, ("not there",))
    assert gone.sequence > written.sequence
    assert whit.count(notes) == 10


def test_what_fits_into_no_answer_is_asked_for_in_parts(whit: Client, notes: str) -> None:
    ids, long = [str(i) for i in range(12)], "x" * 30_000
    whit.upsert(notes, ids=ids, texts=[long] * 12, vectors=rows(12))

    assert [(p.id, p.text) for p in whit.get(notes, ids)] == [(id_, long) for id_ in ids]
    results = whit.search_batch(notes, rows(12), limit=1)
    assert [[(hit.id, hit.text) for hit in result] for result in results] == [[(id_, long)] for id_ in ids]
    with pytest.raises(InvalidRequest, match=r"a message may have 200000 .*ask for fewer items"):
        whit.search(notes, rows(1)[0], limit=12)


def test_vectors_in_place_of_texts(whit: Client, notes: str) -> None:
    found = whit.embed(TEXTS[:20], model=MODEL, encoding=["float32", "int8"])
    whit.upsert(notes, ids=[f"f{i}" for i in range(20)], vectors=found.vectors)
    whit.upsert(notes, ids=[f"i{i}" for i in range(20)], vectors=found.by_encoding["int8"], texts=TEXTS[:20])

    hits = whit.search(notes, found.vectors[3], limit=2)
    many = whit.search_batch(notes, found.vectors, limit=1)

    assert {hit.id for hit in hits} == {"f3", "i3"}
    assert all(hit.score == pytest.approx(1, abs=1e-3) for hit in hits)
    assert len(many) == 20
    assert [result.hits[0].score > 0.999 for result in many] == [True] * 20
    assert len(whit.search_batch(notes, found.by_encoding["int8"], limit=1)) == 20


def test_failed_points_do_not_hinder_the_others(whit: Client, notes: str) -> None:
    """Some of them refused by the client, some by the server, in one batch or several."""
    ids = [*(str(i) for i in range(20)), "empty", "twice", "nan", "", "twice"]
    texts = [*TEXTS[:20], "", "a", "b", "c", "d"]
    metadata: list[dict[str, Any]] = [{} for _ in ids]
    metadata[22]["x"] = float("nan")

    with pytest.raises(ItemErrors) as caught:
        whit.upsert(notes, ids=ids, texts=texts, metadata=metadata)

    assert {index: error.reason for index, error in caught.value.errors.items()} == {
        20: Reason.EMPTY_TEXT,
        21: Reason.DUPLICATE_ID,
        22: Reason.INVALID_REQUEST,
        23: Reason.INVALID_REQUEST,
        24: Reason.DUPLICATE_ID,
    }
    for index, error in caught.value.errors.items():
        assert f"points[{index}]" in str(error)
    assert [item.id for item in caught.value.result.items] == ids
    assert whit.count(notes) == 20


def test_vectors_of_the_wrong_length_or_nan(whit: Client, notes: str) -> None:
    with pytest.raises(InvalidRequest, match="32"):
        whit.upsert(notes, ids=["1"], vectors=np.ones((1, 31)))
    with pytest.raises(InvalidRequest):
        whit.search(notes, np.ones(31))
    bad = np.ones((2, DIMENSION_COUNT))
    bad[1, 5] = np.nan
    with pytest.raises(ItemErrors) as caught:
        whit.upsert(notes, ids=["1", "2"], vectors=bad)
    assert {index: error.reason for index, error in caught.value.errors.items()} == {1: Reason.INVALID_VECTOR}
    assert whit.count(notes) == 1


def test_a_stream_of_points(whit: Client, notes: str) -> None:
    def points() -> Iterator[Point]:
        for i, text in enumerate(TEXTS):
            yield Point(str(i), text, {"n": i})

    results = list(whit.upsert_stream(notes, points(), batch_size=8))

    assert [len(result) for result in results] == [8] * 6 + [2]
    assert [item.id for result in results for item in result.items] == [str(i) for i in range(50)]
    sequences = [result.sequence for result in results]
    assert sequences == sorted(set(sequences))
    assert whit.count(notes) == 50


def test_a_batch_of_points_is_there_when_it_is_acknowledged(whit: Client, notes: str) -> None:
    source = (Point(str(i), f"text {i}") for i in itertools.count())
    results = whit.upsert_stream(notes, source, batch_size=4)

    for _ in range(5):
        ids = [item.id for item in next(results).items]
        assert len(whit.get(notes, ids)) == 4
    results.close()


def test_failed_points_do_not_end_a_stream(whit: Client, notes: str) -> None:
    points = [
        Point("1", "a"),
        Point("2", ""),
        Point("3", "b", {"x": "y" * 2000}),
        Point("4", "\ud800"),
        Point("5", "c"),
    ]

    results = list(whit.upsert_stream(notes, points, batch_size=2, on_error="return"))

    items = [item for result in results for item in result.items]
    assert [item.id for item in items] == ["1", "2", "3", "4", "5"]
    assert [item.error is None for item in items] == [True, False, False, False, True]
    assert [str(item.error).split(":")[0] for item in items if item.error] == [
        "points[1].text", "points[2].metadata", "points[3]",
    ]  # fmt: skip
    assert whit.count(notes) == 2


# ---- search ----


@pytest.fixture
def filled(whit: Client, notes: str) -> str:
    whit.upsert(notes, ids=[str(i) for i in range(50)], texts=TEXTS, metadata=[{"n": i} for i in range(50)])
    return notes


def test_search(whit: Client, filled: str) -> None:
    hits = whit.search(filled, TEXTS[7], limit=5)

    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {hit.text for hit in hits} <= set(TEXTS)
    assert all(TEXTS[hit.metadata["n"]] == hit.text for hit in hits)
    bare = whit.search(filled, TEXTS[7], limit=5, with_payload=False, exact=True)
    assert {(hit.text, len(hit.metadata)) for hit in bare} == {("", 0)}
    threshold = hits[2].score
    above = whit.search(filled, TEXTS[7], limit=50, score_threshold=threshold, exact=True)
    assert all(hit.score >= threshold for hit in above)
    assert len(whit.search(filled, "a")) == 10
    assert whit.search(filled, "water", role="document") != whit.search(filled, "water")


def test_many_queries_get_what_each_gets_alone(whit: Client, filled: str) -> None:
    batch = whit.search_batch(filled, TEXTS, limit=3, exact=True)
    stream = list(whit.search_stream(filled, iter(TEXTS), limit=3, exact=True, batch_size=7))

    assert len(batch) == 50
    assert [result.hits for result in stream] == [result.hits for result in batch]
    for row in (0, 16, 49):
        assert list(batch[row]) == list(whit.search(filled, TEXTS[row], limit=3, exact=True))


def test_failed_queries_do_not_hinder_the_others(whit: Client, filled: str) -> None:
    queries = [*TEXTS[:17], "", "\ud800", "water"]

    with pytest.raises(ItemErrors, match=r"2 of 20 items failed; the first is number 17: texts\[17\]") as caught:
        whit.search_batch(filled, queries)
    returned = whit.search_batch(filled, queries, on_error="return")
    streamed = list(whit.search_stream(filled, queries, on_error="return", batch_size=5))

    for results in (caught.value.result, returned, streamed):
        assert [index for index, result in enumerate(results) if result.error is not None] == [17, 18]
        assert [len(result) for result in results] == [10] * 17 + [0, 0, 10]


def test_a_stream_of_queries_raises_at_the_one_that_failed(whit: Client, filled: str) -> None:
    results = whit.search_stream(filled, ["a", "b", "", "c"])

    assert [len(next(results)), len(next(results))] == [10, 10]
    with pytest.raises(InvalidRequest, match=r"texts\[2\]: is empty"):
        next(results)


def test_the_error_of_one_query_is_its_own(whit: Client, filled: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        whit.search(filled, "")
    assert caught.value.reason is Reason.EMPTY_TEXT
    with pytest.raises(InvalidRequest, match="limit"):
        whit.search(filled, "a", limit=100_000)


def test_vectors_and_texts_mixed_in_a_stream(whit: Client, filled: str) -> None:
    vector = whit.embed([TEXTS[3]], model=MODEL, role="query").vectors[0]

    results = list(whit.search_stream(filled, [TEXTS[3], vector, TEXTS[3]], limit=3, exact=True))

    for result in results:
        assert [hit.id for hit in result] == [hit.id for hit in results[0]]


def test_a_collection_of_another_package(tmp_path: Path) -> None:
    """The same name, other weights: everything that embeds is refused."""
    data = tmp_path / "data"
    with server_thread(data) as address, Client(address) as whit:
        whit.create_collection("notes", model=MODEL)
        whit.upsert("notes", ids=["1"], texts=["a"])
    with server_thread(data, models=[tiny_package(seed=2)]) as address, Client(address) as whit:
        calls: Sequence[Any] = [
            lambda: whit.search("notes", "a"),
            lambda: whit.upsert("notes", ids=["2"], texts=["b"]),
            lambda: list(whit.upsert_stream("notes", [Point("2", "b")])),
        ]
        for call in calls:
            with pytest.raises(FailedPrecondition) as caught:
                call()
            assert caught.value.reason is Reason.FINGERPRINT_MISMATCH
        with pytest.raises(AlreadyExists, match=r"exists with model 'tiny' \(sha256:.*asked for was model 'tiny'"):
            whit.create_collection("notes", model=MODEL, exist_ok=True)
