"""A disk that is full already when the server starts: what is there is read, and writes are refused until there is room."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from tests.support.disk import full_disk
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index import CollectionStore, PointWrite

VECTORS = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def write(store, id_):
    return store.open("notes").upsert([PointWrite(id_, "a text")], VECTORS[:1])


def test_a_collection_is_read_where_there_is_no_room_to_open_it_for_writing(tmp_path):
    """SQLite keeps an index of its log in a file, which it could not make: nothing could be read, nor was it listed."""
    with CollectionStore(tmp_path, background=False) as store:
        store.create("notes", model_id="m", fingerprint="sha256:1", dimension_count=8, storage=Encoding.FLOAT32)
        store.open("notes").upsert([PointWrite(str(i), f"text {i}") for i in range(3)], VECTORS)

    with full_disk(0):
        CollectionStore(tmp_path, background=False).close()  # the lock has no room for the number of this process

    with CollectionStore(tmp_path, background=False) as store:
        with full_disk():
            assert [info.point_count for info in store.list()] == [3]
            handle = store.open("notes")
            assert handle.count() == 3
            assert [point.text for point in handle.get(["1", "2"], with_vectors=True)[0]] == ["text 1", "text 2"]
            assert handle.search(VECTORS[:1], limit=1)[0][0].id == "0"
            with pytest.raises(ServiceError, match=r"no room on disk .* free some space, then send it again") as caught:
                write(store, "new")
            assert caught.value.problem.reason is Reason.STORAGE_FULL
            assert handle.count() == 3

        write(store, "new")
        assert handle.count() == 4
        with full_disk():  # what it had opened stays open
            assert handle.count() == 4

    with CollectionStore(tmp_path, background=False) as store:
        assert store.open("notes").count() == 4


def test_a_collection_that_is_deleted_meanwhile_is_not_looked_for(tmp_path, monkeypatch):
    """Under its path there may be another one by then."""
    with CollectionStore(tmp_path, background=False) as store:
        store.create("notes", model_id="m", fingerprint="sha256:1", dimension_count=8, storage=Encoding.FLOAT32)
    with CollectionStore(tmp_path, background=False) as store, full_disk():
        handle = store.open("notes")
        take_view = handle._database._take_view

        def deleted_meanwhile():
            try:
                return take_view()
            except sqlite3.OperationalError:
                monkeypatch.undo()
                store.delete("notes")
                raise

        monkeypatch.setattr(handle._database, "_take_view", deleted_meanwhile)
        with pytest.raises(ServiceError) as caught:
            handle.count()
    assert caught.value.problem.reason is Reason.COLLECTION_NOT_FOUND


def test_points_in_the_log_are_not_left_out(tmp_path):
    with CollectionStore(tmp_path / "a", background=False) as store:
        store.create("notes", model_id="m", fingerprint="sha256:1", dimension_count=8, storage=Encoding.FLOAT32)
        write(store, "in the log")
        # As after kill -9: the log is there, its index is not.
        path = tmp_path / "a" / "collections" / "notes"
        copy = tmp_path / "b" / "collections" / "notes"
        copy.mkdir(parents=True)
        for name in ("points.db", "points.db-wal"):
            (copy / name).write_bytes((path / name).read_bytes())

    with CollectionStore(tmp_path / "b", background=False) as store:
        with full_disk(), pytest.raises(ServiceError, match="no room on disk"):
            store.open("notes")
        assert store.open("notes").count() == 1
