"""The SQLite file of one collection: its schema, one writer, many readers, and every SQL statement of the index.

WAL mode with ``synchronous=FULL``: a commit that returned is on disk, and readers see the state of one commit while a
writer goes on. Keys are given in the order of commits and never twice, so ``key >= k`` means "written since k".
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whit.contract.errors import Problem, Reason
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index.connections import connect, is_no_room_for_log_index
from whit.server.index.problems import damaged, refusal
from whit.server.index.types import CollectionInfo

FORMAT_VERSION = 2  # residual codes
_FIRST_FORMAT_VERSION = 1  # of collections that older versions can read
DATABASE_FILE = "points.db"
_APPLICATION_ID = 0x77686974  # "whit"
_LOG_BYTE_COUNT = 64 << 20  # the write-ahead log is cut to this after a long reader has let it grow
_KEPT_READER_COUNT = 4  # idle reading connections; each holds two files open
_LOOKUP_COUNT = 500  # values in one IN (...) list

# Vector before text: a scan of vectors then never walks the overflow pages of a long text.
_SCHEMA = """
CREATE TABLE collection(model_id TEXT NOT NULL, fingerprint TEXT NOT NULL, dimension_count INTEGER NOT NULL,
  storage TEXT NOT NULL, create_time TEXT NOT NULL);
CREATE TABLE state(sequence INTEGER NOT NULL, next_key INTEGER NOT NULL, point_count INTEGER NOT NULL);
CREATE TABLE points(key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL, scale REAL,
  vector BLOB NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE snapshot(file TEXT NOT NULL, checksum TEXT NOT NULL, usearch_version TEXT NOT NULL, covered_key INTEGER NOT NULL,
  entry_count INTEGER NOT NULL);
INSERT INTO state VALUES (0, 1, 0);
"""


@dataclass(frozen=True, slots=True)
class Header:
    """What a collection is for life."""

    model_id: str
    fingerprint: str
    dimension_count: int
    storage: Encoding
    create_time: datetime

    def info(self, collection_id: str, point_count: int) -> CollectionInfo:
        """The same as the index gives it out."""
        return CollectionInfo(
            id=collection_id,
            model_id=self.model_id,
            fingerprint=self.fingerprint,
            dimension_count=self.dimension_count,
            storage=self.storage,
            point_count=point_count,
            create_time=self.create_time,
        )


@dataclass(frozen=True, slots=True)
class State:
    """The counters as of one commit: changes so far, the key that the next point gets, points there are."""

    sequence: int
    next_key: int
    point_count: int


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A published graph file. It holds every point that was alive with ``key < covered_key``, and perhaps dead ones."""

    file: str
    checksum: str
    usearch_version: str
    covered_key: int
    entry_count: int


@dataclass(frozen=True, slots=True)
class PointRow:
    """A row to insert. ``scale`` is that of int8 storage, None for others."""

    id: str
    scale: float | None
    vector: bytes
    metadata: str
    text: str


def create_database(directory: Path, header: Header) -> None:
    """Makes the database of an empty collection in ``directory`` and puts its bytes on disk.

    Raises:
        ServiceError: STORAGE_FAILED, the file system cannot hold it. Otherwise as SQLite.
    """
    with closing(connect(directory / DATABASE_FILE, "rwc")) as connection:
        connection.execute("PRAGMA page_size = 8192")  # several rows of 384 float32 and their text fit a page
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise refusal(
                Reason.STORAGE_FAILED,
                f"the file system of {directory} cannot hold a database in WAL mode; put the data directory on a local disk",
            )
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        version = FORMAT_VERSION if header.storage.bits else _FIRST_FORMAT_VERSION
        connection.execute(f"PRAGMA user_version = {version}")
        connection.executescript(_SCHEMA)
        connection.execute(
            "INSERT INTO collection VALUES (?, ?, ?, ?, ?)",
            (
                header.model_id,
                header.fingerprint,
                header.dimension_count,
                header.storage,
                header.create_time.isoformat(),
            ),
        )


class View:
    """The collection as of one commit, for reading. Lives only inside ``Database.read``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The first statement of a transaction fixes what all later ones see.
        self.state = State(*connection.execute("SELECT sequence, next_key, point_count FROM state").fetchone())

    def vectors_from(self, key: int, chunk_count: int) -> Iterator[list[tuple[int, str, bytes]]]:
        """(key, id, vector) of every point with at least this key, by key, at most ``chunk_count`` a time."""
        query = "SELECT key, id, vector FROM points WHERE key >= ? ORDER BY key"
        with closing(self._connection.execute(query, (key,))) as cursor:
            while rows := cursor.fetchmany(chunk_count):
                yield rows

    def count_from(self, key: int) -> int:
        """Number of points with at least this key."""
        count: int = self._connection.execute("SELECT count(*) FROM points WHERE key >= ?", (key,)).fetchone()[0]
        return count

    def vectors_of(self, keys: Sequence[int]) -> list[tuple[int, str, bytes]]:
        """(key, id, vector) of those of these keys that are still points."""
        return list(self._lookup("key, id, vector", "key", keys))

    def payloads_of(self, keys: Sequence[int]) -> Generator[tuple[int, str, str], None, None]:
        """(key, text, metadata) of those of these keys that are still points, read one after the other."""
        return self._lookup("key, text, metadata", "key", keys)

    def points_of(
        self, ids: Sequence[str], *, with_vectors: bool
    ) -> Generator[tuple[str, str, str, float | None, bytes], None, None]:
        """(id, text, metadata, scale, vector) of the points with these ids, in any order; no vector unless asked for."""
        columns = "id, text, metadata, scale, " + ("vector" if with_vectors else "x''")
        return self._lookup(columns, "id", ids)

    def snapshot(self) -> SnapshotRecord | None:
        """The newest published graph file."""
        row = self._connection.execute(
            "SELECT file, checksum, usearch_version, covered_key, entry_count FROM snapshot"
        ).fetchone()
        return SnapshotRecord(*row) if row else None

    def _lookup(self, columns: str, column: str, values: Sequence[int] | Sequence[str]) -> Generator[Any, None, None]:
        for start in range(0, len(values), _LOOKUP_COUNT):
            some = values[start : start + _LOOKUP_COUNT]
            marks = ",".join("?" * len(some))
            # Only names from this module and question marks are put together here.
            query = f"SELECT {columns} FROM points WHERE {column} IN ({marks})"  # noqa: S608
            with closing(self._connection.execute(query, some)) as cursor:
                yield from cursor


class Writer(View):
    """The collection inside a write transaction. Lives only inside ``Database.write``."""

    def upsert(self, rows: Sequence[PointRow]) -> None:
        """Inserts rows under new keys; a point that had one of their ids goes. Ids must differ from each other."""
        state, sequence = self.state, self.state.sequence + 1
        replaced = self._connection.executemany("DELETE FROM points WHERE id = ?", [(row.id,) for row in rows]).rowcount
        self._connection.executemany(
            "INSERT INTO points(key, id, sequence, scale, vector, metadata, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (key, row.id, sequence, row.scale, row.vector, row.metadata, row.text)
                for key, row in enumerate(rows, state.next_key)
            ],
        )
        self._set_state(State(sequence, state.next_key + len(rows), state.point_count + len(rows) - replaced))

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Deletes points and returns the ids that were not there. Ids must differ from each other."""
        missing = [
            id_ for id_ in ids if not self._connection.execute("DELETE FROM points WHERE id = ?", (id_,)).rowcount
        ]
        deleted_count = len(ids) - len(missing)
        if deleted_count:
            state = self.state
            self._set_state(State(state.sequence + 1, state.next_key, state.point_count - deleted_count))
        return missing

    def set_snapshot(self, record: SnapshotRecord) -> None:
        """Makes this graph file the newest one."""
        self._connection.execute("DELETE FROM snapshot")
        self._connection.execute(
            "INSERT INTO snapshot VALUES (?, ?, ?, ?, ?)",
            (record.file, record.checksum, record.usearch_version, record.covered_key, record.entry_count),
        )

    def _set_state(self, state: State) -> None:
        self._connection.execute(
            "UPDATE state SET sequence = ?, next_key = ?, point_count = ?",
            (state.sequence, state.next_key, state.point_count),
        )
        self.state = state


class Database:
    """An open database: one writing connection behind a lock, a few reading ones, all made as needed and kept.

    Raises:
        ServiceError: STORAGE_FAILED if the file is not a collection, is damaged or was made by a newer version.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / DATABASE_FILE
        self._write_lock = threading.Lock()
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed: Problem | None = None
        if not self._path.is_file():
            raise damaged(directory, f"{DATABASE_FILE} is missing")
        self._writer: sqlite3.Connection | None = None
        try:
            self._writer = self._open_writer()
            self.header = _read_header(self._writer, directory)
            self._writer.execute("PRAGMA journal_mode = WAL")  # a backup by VACUUM INTO is in another
        except sqlite3.OperationalError as error:
            self._close_writer()
            with self._frozen(error) as connection:
                self.header = _read_header(connection, directory)
        except BaseException:
            self._close_writer()
            raise

    @contextmanager
    def read(self) -> Iterator[View]:
        """A view of the newest commit. Writers go on meanwhile and it does not see them."""
        try:
            connection, view = self._take_view()
        except sqlite3.OperationalError as error:
            with self._frozen(error) as connection:
                yield View(connection)
            return
        try:
            yield view
            connection.rollback()
        except BaseException:
            connection.close()
            raise
        if len(self._readers) >= _KEPT_READER_COUNT:
            connection.close()
            return
        self._readers.append(connection)
        if self._closed:  # closed while this thread was reading
            self._close_readers()

    @contextmanager
    def _frozen(self, error: sqlite3.OperationalError) -> Iterator[sqlite3.Connection]:
        """A connection for reading on a disk without room for the index of the log, which is what ``error`` says; else it is raised.

        The database is whole while the log is empty, and stays as it is while nobody may write.
        """
        with self._write_lock:
            self._check_open()  # if deleted just now, another collection may live under the same path
            log = self._path.with_name(f"{DATABASE_FILE}-wal")
            if not is_no_room_for_log_index(error) or (log.exists() and log.stat().st_size):
                raise error
            with closing(connect(self._path, "ro&immutable=1")) as connection:
                yield connection

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """A write transaction: on disk when the block ends, gone without trace when it raises."""
        with self._write_lock:
            self._check_open()
            connection = self._writer = self._writer or self._open_writer()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield Writer(connection)
                self._check_in_place()
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, such as a full disk.
                if connection.in_transaction:
                    connection.rollback()
                raise

    def rest(self) -> None:
        """Closes the connections that nobody uses now. The next call makes one again, in about a millisecond."""
        self._close_readers()
        if self._write_lock.acquire(blocking=False):
            try:
                self._close_writer()
            finally:
                self._write_lock.release()

    def close(self, reason: Problem) -> None:
        """Waits for the writer and closes; whoever comes later gets ``reason``."""
        with self._write_lock:
            self._closed = reason
            self._close_writer()
            self._close_readers()

    def _open_writer(self) -> sqlite3.Connection:
        connection = connect(self._path, "rw")
        try:
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTE_COUNT}")
            self._opened = self._path.stat()
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_in_place(self) -> None:
        """Refuses to write where nobody would find it again: a file that was removed or replaced can still be written to."""
        if not (self._path.exists() and os.path.samestat(self._opened, self._path.stat())):
            raise damaged(self._path.parent, f"{DATABASE_FILE} was removed or replaced while it was in use")

    def _close_writer(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None

    def _take_view(self) -> tuple[sqlite3.Connection, View]:
        connection = self._take_reader()
        try:
            connection.execute("BEGIN")
            return connection, View(connection)
        except BaseException:
            connection.close()
            raise

    def _take_reader(self) -> sqlite3.Connection:
        self._check_open()
        try:
            return self._readers.pop()
        except IndexError:
            pass
        try:
            connection = connect(self._path, "rw")
        except sqlite3.Error:
            self._check_open()  # deleted just now
            raise
        if self._closed:  # by now another collection may live under the same path
            connection.close()
        self._check_open()
        return connection

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.pop().close()

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceError(self._closed)


def _read_header(connection: sqlite3.Connection, directory: Path) -> Header:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise damaged(directory, f"{DATABASE_FILE} is not the database of a collection")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT_VERSION:
        raise refusal(
            Reason.STORAGE_FAILED,
            f"the collection in {directory} has format version {version}, this whit reads up to {FORMAT_VERSION}; "
            "upgrade whit (pip install -U 'whit[server]') or index the collection again with this version",
        )
    try:
        model_id, fingerprint, dimension_count, storage, create_time = connection.execute(
            "SELECT model_id, fingerprint, dimension_count, storage, create_time FROM collection"
        ).fetchone()
        created = datetime.fromisoformat(create_time).astimezone(UTC)
        return Header(model_id, fingerprint, dimension_count, Encoding(storage), created)
    except (TypeError, ValueError) as error:
        raise damaged(directory, f"its description cannot be read ({error})") from error
