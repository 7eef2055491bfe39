"""Searches among other calls: what they hold up and what they do not, and batches that are done in parts."""

import threading

import numpy as np

from tests.support.server import DIMENSION_COUNT, server_thread
from tests.support.wire import connected, point, vector_batch
from whit.server.index import CollectionHandle
from whit.server.service import search as search_module
from whit.v1 import point_pb2


def test_searches_hold_up_no_look_up(tmp_path, monkeypatch):
    gate, search = threading.Event(), CollectionHandle.search

    def gated(*args, **options):
        assert gate.wait(30)
        return search(*args, **options)

    with server_thread(tmp_path) as address, connected(address) as wire:
        name = wire.new_collection()
        wire.upsert(name, [point("a", "one")])
        monkeypatch.setattr(CollectionHandle, "search", gated)
        request = point_pb2.SearchRequest(options=point_pb2.SearchOptions(collection=name), texts=["one"])
        calls = [wire.points.Search.future(request) for _ in range(3)]  # more than there are threads for them
        try:
            assert wire.points.Count(point_pb2.CountRequest(collection=name), timeout=20).count == 1
            assert wire.points.Get(point_pb2.GetRequest(collection=name, ids=["a"]), timeout=20).points
        finally:
            gate.set()
        assert all(call.result(timeout=20).results for call in calls)


def test_a_batch_of_queries_that_is_searched_for_in_parts_keeps_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "_QUERIES_AT_A_TIME", 2)
    written = np.random.default_rng(0).standard_normal((7, DIMENSION_COUNT)).astype(np.float32)
    queries = written.copy()
    queries[3] = 0
    with server_thread(tmp_path) as address, connected(address) as wire:
        name = wire.new_collection()
        wire.upsert(name, [point(str(i)) for i in range(7)], vectors=vector_batch(written))
        found = wire.search(name, vectors=vector_batch(queries), limit=1).results

    assert [[hit.id for hit in result.hits] for result in found] == [[str(i)] if i != 3 else [] for i in range(7)]
    assert [result.status.code != 0 for result in found] == [i == 3 for i in range(7)]
