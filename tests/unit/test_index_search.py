"""Search: exact where it scans, close to exact where the graph proposes."""

from contextlib import contextmanager

import numpy as np
import pytest

from tests.support.indexing import (
    COUNT,
    clustered,
    ids_of,
    make_collection,
    make_graphs_small,
    names,
    recall,
    reopening,
    upsert,
)
from whit.contract.vectors import Encoding, decode
from whit.server.index import keeper
from whit.server.index.graph import Graph

STORAGES = (Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.BITS_4, Encoding.BITS_2)


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch):
    make_graphs_small(monkeypatch)


@pytest.fixture
def make(tmp_path):
    with reopening(tmp_path) as open_store:
        yield lambda storage=Encoding.FLOAT32, count=COUNT: make_collection(open_store(), storage, count)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("count", [1, 5, 150, 600])
def test_exact_search_agrees_with_numpy_on_the_stored_vectors(make, storage, count):
    handle, queries = make(storage, count), clustered(7, seed=1)
    stored = decode(handle.get(names(count), with_vectors=True)[2]).astype(np.float64)
    scores = queries @ (stored / np.linalg.norm(stored, axis=1, keepdims=True)).T
    for hits, row in zip(handle.search(queries, limit=10, exact=True), scores, strict=True):
        order = np.argsort(-row)[:10]
        assert ids_of(hits) == [names(count)[i] for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], row[order], atol=1e-6)


def test_an_empty_collection_and_no_queries_give_no_hits(make):
    handle = make(count=0)
    assert handle.search(clustered(2), limit=5) == [[], []]
    assert handle.search(clustered(0), limit=5) == []


def test_hits_carry_the_payload_unless_told_not_to(make):
    handle = make(count=3)
    (hits,) = handle.search(clustered(1), limit=1)
    assert (hits[0].id, hits[0].text, hits[0].metadata) == ("p00000", "text of p00000", "{}")
    (hits,) = handle.search(clustered(1), limit=1, with_payload=False)
    assert (hits[0].id, hits[0].text, hits[0].metadata) == ("p00000", "", "{}")


def test_the_threshold_keeps_what_reaches_it(make):
    handle = make(count=50)
    (hits,) = handle.search(clustered(1, seed=3), limit=50)
    (kept,) = handle.search(clustered(1, seed=3), limit=50, score_threshold=hits[20].score)
    assert kept == hits[:21]


@pytest.mark.parametrize("graph", [False, True])
def test_equal_vectors_come_by_id_and_score_alike_alone_or_in_a_batch(make, graph):
    handle = make(count=300)
    same = np.repeat(clustered(1, seed=5), 37, axis=0)
    upsert(handle, [f"q{i:02}" for i in reversed(range(37))], same)
    if graph:
        handle.maintain()
    query = same[:1]
    (hits,) = handle.search(query, limit=10)
    assert ids_of(hits) == [f"q{i:02}" for i in range(10)]
    assert {hit.score for hit in hits} == {1.0}
    batch = handle.search(np.concatenate([clustered(30, seed=6), query]), limit=10)
    assert batch[-1] == hits
    assert handle.search(query, limit=10, exact=True) == [hits]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_graph_finds_what_a_scan_finds(make, storage):
    handle, queries = make(storage), clustered(50, seed=1)
    handle.maintain()
    assert len(handle._keeper.graph) == COUNT
    got, wanted = handle.search(queries, limit=10), handle.search(queries, limit=10, exact=True)
    assert recall(got, wanted) >= 0.99
    for hits, exact in zip(got, wanted, strict=True):
        scores = {hit.id: hit.score for hit in exact}
        assert all(hit.score == scores.get(hit.id, hit.score) for hit in hits)


def test_points_newer_than_the_graph_are_found(make):
    handle = make()
    handle.maintain()
    fresh = clustered(20, seed=2)
    upsert(handle, names(20, start=COUNT), fresh)
    assert len(handle._keeper.graph) == COUNT
    assert [hits[0].id for hits in handle.search(fresh, limit=3)] == names(20, start=COUNT)


def test_replaced_and_deleted_points_never_come_back(make):
    handle = make()
    handle.maintain()
    upsert(handle, names(50), clustered(50, seed=2))
    handle.delete(names(50, start=50))
    for _ in range(2):
        for hits in handle.search(clustered(100), limit=10):
            assert len(hits) == 10
            assert not set(ids_of(hits)) & set(names(50, start=50))
        old = handle.search(clustered(50), limit=1)
        assert all(hits[0].id not in names(100) or hits[0].score < 0.999 for hits in old)
        handle.maintain()


def test_the_limit_is_met_even_where_all_neighbours_are_dead(make, monkeypatch):
    monkeypatch.setattr(keeper, "STALE_FRACTION", 1.0)
    handle, query = make(), clustered(1, seed=4)
    handle.maintain()
    nearest = ids_of(handle.search(query, limit=200, exact=True)[0])
    handle.delete(nearest)
    got, wanted = handle.search(query, limit=20), handle.search(query, limit=20, exact=True)
    assert len(got[0]) == 20
    assert got == wanted
    assert len(handle.search(query, limit=COUNT)[0]) == COUNT - 200


def test_a_graph_with_too_many_dead_keys_is_built_anew(make):
    handle = make()
    handle.maintain()
    upsert(handle, names(120), clustered(120, seed=2))
    handle.maintain()
    assert len(handle._keeper.graph) == COUNT
    assert recall(handle.search(clustered(30), limit=10), handle.search(clustered(30), limit=10, exact=True)) >= 0.99


def test_a_collection_that_shrank_needs_no_graph(make):
    handle = make()
    handle.maintain()
    handle.delete(names(COUNT - 90))
    handle.maintain()
    assert handle._keeper.graph is None
    assert len(handle.search(clustered(1), limit=100)[0]) == 90


def test_a_search_finds_a_point_that_is_replaced_and_covered_after_its_view_began(make, monkeypatch):
    handle, query = make(), clustered(1, seed=5)
    handle.maintain()
    upsert(handle, ["x"], query)  # not in the graph yet
    read = handle._database.read

    @contextmanager
    def read_then_change():
        with read() as view:
            monkeypatch.setattr(handle._database, "read", read)
            upsert(handle, ["x"], clustered(1, seed=6))
            handle.maintain()  # the graph never learns the first vector of x
            yield view

    monkeypatch.setattr(handle._database, "read", read_then_change)
    (hits,) = handle.search(query, limit=1)
    assert (hits[0].id, hits[0].score) == ("x", 1.0)


def test_a_search_finds_a_point_while_it_is_added_to_the_graph(make, monkeypatch):
    handle, query = make(), clustered(1, seed=5)
    handle.maintain()
    upsert(handle, ["x"], query)
    found = []

    class SearchedWhileAdding:
        def __init__(self, index):
            self.index = index

        def __len__(self):
            return len(self.index)

        def search(self, *args, **options):
            return self.index.search(*args, **options)

        def add(self, *args, **options):
            found.extend(ids_of(handle.search(query, limit=1)[0]))
            return self.index.add(*args, **options)

    graph = handle._keeper.graph
    with monkeypatch.context() as patched:
        patched.setattr(graph, "_index", SearchedWhileAdding(graph._index))
        handle.maintain()
    assert found == ["x"]
    assert len(graph) == COUNT + 1


@pytest.fixture
def added(monkeypatch):
    """How many points were added to a graph at a time."""
    counts, add = [], Graph.add

    def counted(graph, keys, vectors):
        counts.append(len(keys))
        add(graph, keys, vectors)

    monkeypatch.setattr(Graph, "add", counted)
    return counts


def test_a_graph_grows_by_few_points_at_a_time_as_searches_wait_for_them(make, added, monkeypatch):
    handle = make()
    read, views = handle._database.read, []
    monkeypatch.setattr(handle._database, "read", lambda: views.append(1) or read())
    handle.maintain()

    assert sum(added) == len(handle._keeper.graph) == COUNT
    assert max(added) <= 64
    assert len(views) == 2  # the state, and all rows at once


def test_a_graph_that_is_told_to_stop_covers_what_it_holds(make, added, monkeypatch):
    handle, queries = make(), clustered(20, seed=1)
    monkeypatch.setattr(handle._keeper._stop, "is_set", lambda: len(added) >= 2)
    handle.maintain()

    graph = handle._keeper.graph
    assert len(graph) == sum(added) == 128
    assert graph.covered_key == 129  # keys begin at 1
    assert recall(handle.search(queries, limit=10), handle.search(queries, limit=10, exact=True)) >= 0.99
