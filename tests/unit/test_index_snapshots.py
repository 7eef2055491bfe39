"""Snapshots of a graph: the same answers whatever became of them."""

import errno
import logging

import pytest

from tests.support.disk import full_disk
from tests.support.indexing import (
    COUNT,
    DIMENSIONS,
    clustered,
    make_collection,
    make_graphs_small,
    names,
    reopening,
    upsert,
)
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index import CollectionStore, keeper
from whit.server.index.graph import Graph


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch):
    make_graphs_small(monkeypatch)


@pytest.fixture
def open_store(tmp_path):
    with reopening(tmp_path) as open_store:
        yield open_store


def snapshot_files(tmp_path):
    return list((tmp_path / "collections" / "c").glob("graph-*"))


def test_the_snapshot_is_loaded_and_newer_points_are_found(open_store, tmp_path):
    handle = make_collection(open_store())
    handle.maintain()
    assert len(snapshot_files(tmp_path)) == 1
    upsert(handle, names(10, start=COUNT), clustered(10, seed=2))
    handle.delete(["p00000"])
    expected = handle.search(clustered(20, seed=3), limit=10)
    handle = open_store().open("c")
    assert len(handle._keeper.graph) == COUNT
    assert handle.search(clustered(20, seed=3), limit=10) == expected
    handle.maintain()
    assert len(handle._keeper.graph) == COUNT + 10


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "removed": lambda file: file.unlink(),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "a bit of the header flipped": lambda file: flip(file, 0),
    "a bit of a vector flipped": lambda file: flip(file, 1000),  # usearch itself does not notice
    "emptied": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_without_a_sound_snapshot_the_answers_stay_and_the_graph_is_built_anew(open_store, tmp_path, caplog, damage):
    handle = make_collection(open_store())
    handle.maintain()
    expected = handle.search(clustered(20, seed=3), limit=10, exact=True)
    open_store()
    damage(*snapshot_files(tmp_path))
    with caplog.at_level(logging.WARNING):
        handle = open_store().open("c")
    assert "is not used" in caplog.text
    assert handle._keeper.graph is None
    assert handle.search(clustered(20, seed=3), limit=10) == expected
    handle.maintain()
    assert len(handle._keeper.graph) == COUNT


def test_a_snapshot_of_another_usearch_is_not_read(open_store, monkeypatch, caplog):
    make_collection(open_store()).maintain()
    open_store()
    monkeypatch.setattr(keeper, "VERSION", "1.0.0")
    assert open_store().open("c")._keeper.graph is None
    assert "usearch" in caplog.text


def test_old_and_unfinished_snapshots_are_removed(open_store, tmp_path):
    handle = make_collection(open_store())
    handle.maintain()
    (first,) = snapshot_files(tmp_path)
    upsert(handle, names(200, start=COUNT), clustered(200, seed=2))
    handle.maintain()
    (second,) = snapshot_files(tmp_path)
    assert second != first
    open_store()
    (second.parent / "graph-unfinished.usearch").write_bytes(b"half")
    assert len(open_store().open("c")._keeper.graph) == COUNT + 200
    assert snapshot_files(tmp_path) == [second]


def test_a_snapshot_that_finds_no_room_leaves_the_old_one(open_store, tmp_path, monkeypatch):
    handle = make_collection(open_store())
    handle.maintain()
    before = snapshot_files(tmp_path)
    upsert(handle, names(1, start=COUNT), clustered(1, seed=2))
    handle.maintain()

    def full(_graph, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Graph, "save", full)
        with pytest.raises(ServiceError) as caught:
            handle.snapshot()
        assert caught.value.problem.reason is Reason.STORAGE_FULL
        assert snapshot_files(tmp_path) == before
        handle = open_store().open("c")
    assert len(handle._keeper.graph) == COUNT
    assert handle.search(clustered(1, seed=2), limit=1)[0][0].id == names(1, start=COUNT)[0]


@pytest.mark.parametrize("missing", [1, 100, 2000, 4095])
def test_a_graph_whose_last_bytes_find_no_room_is_not_published(open_store, tmp_path, missing):
    handle = make_collection(open_store())
    handle.maintain()
    before = snapshot_files(tmp_path)
    upsert(handle, names(1, start=COUNT), clustered(1, seed=2))
    handle.maintain()
    graph = handle._keeper.graph

    with full_disk(graph._index.serialized_length - missing), pytest.raises(OSError, match="disk may be full"):
        graph.save(tmp_path / "cut")
    with full_disk(graph._index.serialized_length - missing), pytest.raises(ServiceError) as caught:
        handle.snapshot()
    assert caught.value.problem.reason is Reason.STORAGE_FAILED
    assert "check the disk" in caught.value.problem.message
    assert snapshot_files(tmp_path) == before


def test_the_background_thread_builds_the_graph(tmp_path):
    with CollectionStore(tmp_path) as store:
        store.create("c", model_id="m", fingerprint="f", dimension_count=DIMENSIONS, storage=Encoding.INT8)
        handle = store.open("c")
        upsert(handle, names(COUNT), clustered(COUNT))
        handle.maintain()  # waits for the thread, or does its work
        assert len(handle._keeper.graph) == COUNT
        handle.snapshot()
        assert len(snapshot_files(tmp_path)) == 1
