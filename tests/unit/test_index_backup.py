"""Backups of a collection as docs/configuration.md tells to make them, put back in the place of what was lost."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from whit.contract.vectors import Encoding
from whit.server.index import CollectionStore, PointWrite
from whit.server.index.database import DATABASE_FILE
from whit.server.index.keeper import GRAPH_POINT_COUNT

COUNT = GRAPH_POINT_COUNT + 10
VECTORS = np.random.default_rng(0).standard_normal((COUNT, 8)).astype(np.float32)


def _vacuum(source: sqlite3.Connection, target: Path) -> None:
    source.execute("VACUUM INTO ?", (str(target),))


def _backup(source: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


@pytest.mark.parametrize("make", [_vacuum, _backup])
def test_a_backup_made_while_it_is_served_is_as_good_as_the_collection(make, tmp_path):
    path = tmp_path / "collections" / "notes" / DATABASE_FILE
    with CollectionStore(tmp_path, background=False) as store:
        store.create("notes", model_id="m", fingerprint="sha256:1", dimension_count=8, storage=Encoding.INT8)
        handle = store.open("notes")
        handle.upsert([PointWrite(str(i), f"text {i}") for i in range(COUNT)], VECTORS)
        handle.maintain()
        before = handle.search(VECTORS[:20], limit=5, exact=True)
        with closing(sqlite3.connect(path)) as source:
            make(source, tmp_path / "backup")
        handle.delete([str(i) for i in range(COUNT)])  # the accident

    shutil.rmtree(path.parent)
    path.parent.mkdir()
    shutil.move(tmp_path / "backup", path)

    with CollectionStore(tmp_path, background=False) as store:
        handle = store.open("notes")
        assert handle.count() == COUNT
        assert handle.search(VECTORS[:20], limit=5) == before
        # What VACUUM INTO makes is not in WAL mode, in which alone a writer does not wait for readers, nor they for it.
        with handle._database.read() as view:
            handle.upsert([PointWrite("new", "")], VECTORS[:1])
            assert view.state.point_count == COUNT
        assert handle.count() == COUNT + 1
        handle.maintain()
        assert [hits[0].id for hits in handle.search(VECTORS[1:20], limit=5)] == [str(i) for i in range(1, 20)]
