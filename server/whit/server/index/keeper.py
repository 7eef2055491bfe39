"""Keeps a collection's graph in step with its database: builds, extends, rebuilds, saves and loads it.

The graph only ever trails. Writers commit to SQLite and return; ``maintain`` later adds what they wrote, and whatever the
graph does not cover yet is scanned. So a crash, a lost or an old snapshot cost time and never an answer.

Snapshots are published by the database: a graph file gets a fresh name and its bytes are put on disk before one
transaction names it together with its checksum. A file the database does not name is a leftover.
"""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import sha256_of
from whit.contract.vectors import FloatMatrix
from whit.server.index.database import Database, SnapshotRecord, State
from whit.server.index.files import fsync_path
from whit.server.index.graph import VERSION, Graph
from whit.server.index.scoring import decode_rows, unit

log = logging.getLogger(__name__)

GRAPH_POINT_COUNT = 2000  # a scan of fewer points takes less than a millisecond: no graph
EXTEND_KEY_COUNT = 256  # new keys that are worth waking up for
STALE_FRACTION = 0.25  # of a graph's entries no longer points: build it anew
_CHUNK_ROW_COUNT = 512  # rows read at a time
_ADD_ROW_COUNT = 64  # rows added between two looks at the stop flag; a search of the graph waits for them
_SNAPSHOT_KEY_COUNT = 4096  # new keys worth a new snapshot; a quarter of the graph if that is more


class GraphKeeper:
    """The graph of one open collection, None while the collection is small. One thread at a time maintains it."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.graph = self._load()
        self._saved = (self.graph, self._covered_key())  # as of the published snapshot

    def is_due(self, state: State) -> bool:
        """Whether ``maintain`` has enough to do."""
        if self.graph is None:
            return state.point_count >= GRAPH_POINT_COUNT
        new_count, stale_count = state.next_key - self.graph.covered_key, len(self.graph) - state.point_count
        return new_count >= EXTEND_KEY_COUNT or stale_count > STALE_FRACTION * len(self.graph)

    def maintain(self) -> None:
        """Brings the graph up to date, builds it anew if it holds too many dead keys, and saves it now and then.

        Raises:
            ServiceError: the collection was closed meanwhile. Otherwise as the database, or OSError from saving.
        """
        with self._lock:
            graph = self.graph
            with self._database.read() as view:
                state = view.state
                covered_count = state.point_count - view.count_from(self._covered_key())
            # Half as many are kept in a graph that is there: a collection near the limit must not flap.
            if state.point_count < (GRAPH_POINT_COUNT if graph is None else GRAPH_POINT_COUNT // 2):
                self.graph = None
                return
            if graph is None or len(graph) - covered_count > STALE_FRACTION * len(graph):
                graph = Graph(self._database.header.dimension_count)
            if self.graph is None:
                self.graph = graph  # half a graph helps already: the rest is scanned
            self._extend(graph, state.next_key)
            if self._stop.is_set():
                return
            self.graph = graph
            saved_graph, saved_key = self._saved
            if graph is not saved_graph or graph.covered_key - saved_key >= max(_SNAPSHOT_KEY_COUNT, len(graph) // 4):
                self._save()

    def save(self) -> None:
        """Publishes a snapshot of the graph as it is, unless the published one is the same."""
        with self._lock:
            self._save()

    def stop(self) -> None:
        """Makes ``maintain`` end soon, now and for good."""
        self._stop.set()

    def _covered_key(self) -> int:
        return self.graph.covered_key if self.graph else 0

    def _extend(self, graph: Graph, end_key: int) -> None:
        header = self._database.header
        while graph.covered_key < end_key and not self._stop.is_set():
            # A view for each chunk: a long one would keep SQLite from folding its log into the database.
            with self._database.read() as view:
                rows = next(view.vectors_from(graph.covered_key, _CHUNK_ROW_COUNT), [])
            if not rows:
                graph.cover(end_key)
                return
            keys, vectors = decode_rows(rows, header.storage, header.dimension_count)
            self._add(graph, keys, unit(vectors))

    def _add(self, graph: Graph, keys: NDArray[np.int64], vectors: FloatMatrix) -> None:
        for start in range(0, len(keys), _ADD_ROW_COUNT):
            if self._stop.is_set():
                return
            rows = slice(start, start + _ADD_ROW_COUNT)
            try:
                graph.add(keys[rows], vectors[rows])
            except Exception:
                # It may hold some of these rows now, and usearch refuses a key it has: start over next time.
                self.graph = None
                raise

    def _save(self) -> None:
        graph = self.graph
        if graph is None or self._saved == (graph, graph.covered_key):
            return
        path = self._directory / f"graph-{secrets.token_hex(8)}.usearch"
        try:
            graph.save(path)
            fsync_path(path)
            fsync_path(self._directory)
            record = SnapshotRecord(path.name, sha256_of(path), VERSION, graph.covered_key, len(graph))
            with self._database.write() as writer:
                writer.set_snapshot(record)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._saved = (graph, graph.covered_key)
        self._remove_files_except(path.name)

    def _load(self) -> Graph | None:
        with self._database.read() as view:
            record = view.snapshot()
        self._remove_files_except(record.file if record else "")
        if record is None:
            return None
        path = self._directory / record.file
        if record.usearch_version != VERSION:
            problem = f"it was made by usearch {record.usearch_version}, this is {VERSION}"
        elif not path.is_file():
            problem = "it is missing"
        elif sha256_of(path) != record.checksum:
            problem = "its bytes have changed"
        else:
            dimension_count = self._database.header.dimension_count
            graph = Graph.load(path, dimension_count, record.covered_key, record.entry_count)
            if graph is not None:
                return graph
            problem = "it holds another graph"
        log.warning("graph snapshot %s is not used: %s; scanning until the graph is built anew", path, problem)
        return None

    def _remove_files_except(self, name: str) -> None:
        for path in self._directory.glob("graph-*"):
            if path.name != name:
                path.unlink(missing_ok=True)
