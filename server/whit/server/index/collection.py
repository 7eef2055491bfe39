"""One open collection: validates, writes to SQLite, searches, and keeps the rule that ties graph and database together.

The rule: **SQLite decides what exists; the graph only proposes.** Every read happens in one view of the database. The
graph covers the points below its ``covered_key``; the rest of the view is scanned. Nothing in memory has to be undone
when a transaction fails, because memory holds no truth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.contract.vectors import EncodedVectors, Encoding, FloatMatrix, encode
from whit.server.errors import ServiceError, response_too_large
from whit.server.index.database import Database, PointRow, State, View
from whit.server.index.keeper import GraphKeeper
from whit.server.index.problems import damaged, refusal, storage_errors
from whit.server.index.rows import from_rows, to_rows
from whit.server.index.scoring import lengths, unit
from whit.server.index.search import Searcher
from whit.server.index.types import CollectionInfo, PointWrite, SearchHit, StoredPoint

log = logging.getLogger(__name__)

Row = TypeVar("Row", bound=tuple[Any, ...])

# Lengths a vector may have: inside, neither squares in float32 nor float16 values overflow or vanish.
_LENGTHS = {Encoding.FLOAT16: (1e-2, 1e4)}
_OTHER_LENGTHS = (1e-15, 1e15)


class CollectionHandle:
    """A collection, open. Every method may be called from several threads at once.

    All methods raise ``ServiceError``: STORAGE_FULL and STORAGE_FAILED from the disk, COLLECTION_NOT_FOUND once the
    collection was deleted, SHUTTING_DOWN once its store was closed.
    """

    def __init__(
        self,
        collection_id: str,
        directory: Path,
        wake: Callable[[CollectionHandle], None],
        used: Callable[[CollectionHandle], None],
    ) -> None:
        """Opens the collection in ``directory``.

        ``wake`` is called, after a write, when ``maintain`` is due; ``used`` after every call that may have opened files.
        """
        self.id = collection_id
        self._directory = directory
        self._wake, self._used = wake, used
        with storage_errors(directory):
            self._database = Database(directory)
            try:
                self._keeper = GraphKeeper(self._database, directory)
                with self._database.read() as view:
                    state = view.state
            except BaseException:
                self._database.close(
                    Problem(Reason.STORAGE_FAILED, f"collection {collection_id!r} could not be opened")
                )
                raise
        header = self._database.header
        self._searcher = Searcher(header.storage, header.dimension_count)
        self._wake_if_due(state)

    def __repr__(self) -> str:
        header = self._database.header
        return f"<CollectionHandle {self.id}: {header.dimension_count} x {header.storage}, model {header.model_id}>"

    @property
    def info(self) -> CollectionInfo:
        """The collection as it is now."""
        return self._database.header.info(self.id, self.count())

    def glance(self) -> CollectionInfo:
        """The same as ``info``, but does not count as use: the caller puts the collection to rest again."""
        return self._database.header.info(self.id, self._state().point_count)

    def count(self) -> int:
        """Number of points."""
        with self._use():
            return self._state().point_count

    def upsert(self, points: Sequence[PointWrite], vectors: FloatMatrix) -> int:
        """Writes points, all or none, new or over old ones with the same id; they are on disk when this returns.

        Args:
            points: with ids that differ from each other.
            vectors: float32 [points, dimension_count], finite, none of them zero; row i belongs to point i.

        Returns:
            The sequence after this write.

        Raises:
            ServiceError: DUPLICATE_ID, INVALID_VECTOR (both name every offending row), and as the class says.
        """
        self._check_ids([point.id for point in points])
        self._check_vectors(vectors, len(points), self._database.header.storage)
        if not points:
            with self._use():
                return self._state().sequence
        rows = self._rows(points, vectors)
        with self._use(), storage_errors(self._directory), self._database.write() as writer:
            writer.upsert(rows)
        self._wake_if_due(writer.state)
        return writer.state.sequence

    def delete(self, ids: Sequence[str]) -> tuple[int, list[str], int]:
        """Deletes points; they are gone from disk when this returns.

        Returns:
            How many were there and are gone, the ids that were not there, the sequence after this write.
        """
        unique_ids = list(dict.fromkeys(ids))
        with self._use(), storage_errors(self._directory), self._database.write() as writer:
            missing = writer.delete(unique_ids)
        self._wake_if_due(writer.state)
        return len(unique_ids) - len(missing), missing, writer.state.sequence

    def get(
        self, ids: Sequence[str], *, with_vectors: bool, byte_limit: int | None = None
    ) -> tuple[list[StoredPoint], list[str], EncodedVectors | None]:
        """Reads points by id.

        Returns:
            The points found, in the order asked for; the ids that are not there; if asked for, the stored vectors, a row
            for each of those points, in the collection's encoding.

        Raises:
            ServiceError: INVALID_REQUEST, the points have more than ``byte_limit`` bytes; and as the class says.
        """
        with self._use(), self._reading() as view:
            found_rows = view.points_of(list(dict.fromkeys(ids)), with_vectors=with_vectors)
            rows = {row[0]: row for row in _within(found_rows, byte_limit)}
        found = [rows[id_] for id_ in ids if id_ in rows]
        missing = [id_ for id_ in ids if id_ not in rows]
        points = [StoredPoint(id_, text, metadata) for id_, text, metadata, _, _ in found]
        if not with_vectors:
            return points, missing, None
        header = self._database.header
        stored = [(scale, vector) for *_, scale, vector in found]
        return points, missing, from_rows(stored, header.storage, header.dimension_count)

    def search(
        self,
        queries: FloatMatrix,
        *,
        limit: int,
        score_threshold: float | None = None,
        exact: bool = False,
        with_payload: bool = True,
        byte_limit: int | None = None,
    ) -> list[list[SearchHit]]:
        """Finds the nearest points of each query by cosine.

        Args:
            queries: float32 [queries, dimension_count], finite, none of them zero.
            limit: hits for each query, at least 1.
            score_threshold: leave out hits with a lower score.
            exact: compare with every point; collections of less than 2,000 points always are.
            with_payload: give text and metadata too.
            byte_limit: bytes that the texts and metadata found may have together; None: no limit.

        Returns:
            For each query its hits, best first, equal scores by id.

        Raises:
            ServiceError: INVALID_VECTOR, INVALID_REQUEST (``limit``, ``byte_limit``), and as the class says.
        """
        if limit < 1:
            raise refusal(Reason.INVALID_REQUEST, f"limit must be at least 1, got {limit}; ask for 10", "limit")
        self._check_vectors(queries, len(queries), Encoding.FLOAT32)
        graph = None if exact else self._keeper.graph
        covered_key = graph.covered_key if graph else 0  # before the view begins: see Searcher.search
        with self._use(), self._reading() as view:
            found = self._searcher.search(view, graph, covered_key, unit(queries), limit)
            if score_threshold is not None:
                found = [[c for c in candidates if -c.loss >= score_threshold] for candidates in found]
            keys = list({c.key for candidates in found for c in candidates}) if with_payload else []
            payloads = {key: payload for key, *payload in _within(view.payloads_of(keys), byte_limit)}
        nothing = ("", "{}")
        return [[SearchHit(c.id, -c.loss, *payloads.get(c.key, nothing)) for c in candidates] for candidates in found]

    def unfit_vectors(self, vectors: FloatMatrix, *, is_query: bool = False) -> dict[int, str]:
        """What is wrong with each row of float32 [n, dimension_count] that ``upsert``, or ``search``, would refuse."""
        return _unfit(vectors, Encoding.FLOAT32 if is_query else self._database.header.storage)

    def maintain(self) -> None:
        """Brings the graph up to date now, in this thread, and saves it if enough has changed.

        Answers are right without: this only makes searches of large collections fast.
        """
        with storage_errors(self._directory):
            self._keeper.maintain()

    def snapshot(self) -> None:
        """Saves the graph if it has changed, so that the next start need not build it."""
        with storage_errors(self._directory):
            self._keeper.save()

    def rest(self) -> None:
        """Closes idle files and frees cached rows, until the next call; the graph stays in memory."""
        self._searcher.forget()
        try:
            with storage_errors(self._directory):
                self._database.rest()
        except ServiceError as error:  # whoever opened another collection is not to blame
            log.warning("idle files of %r are not closed: %s", self, error)

    def close(self, reason: Problem, *, save: bool = True) -> None:
        """Ends maintenance, saves the graph if wanted, waits for the writer, closes the files. Later calls get ``reason``."""
        self._keeper.stop()
        try:
            if save:
                self.snapshot()
        except ServiceError as error:  # the graph is built anew at the next start
            log.warning("no graph snapshot at close: %s", error)
        finally:
            self._database.close(reason)

    @contextmanager
    def _use(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._used(self)

    @contextmanager
    def _reading(self) -> Iterator[View]:
        with storage_errors(self._directory), self._database.read() as view:
            try:
                yield view
            except ValueError as error:
                raise damaged(self._directory, str(error)) from error

    def _wake_if_due(self, state: State) -> None:
        if self._keeper.is_due(state):
            self._wake(self)

    def _state(self) -> State:
        with self._reading() as view:
            return view.state

    def _rows(self, points: Sequence[PointWrite], vectors: FloatMatrix) -> list[PointRow]:
        rows = to_rows(encode(vectors, self._database.header.storage))
        return [
            PointRow(point.id, scale, blob, point.metadata, point.text)
            for point, (scale, blob) in zip(points, rows, strict=True)
        ]

    def _check_ids(self, ids: Sequence[str]) -> None:
        first: dict[str, int] = {}
        violations = [
            FieldViolation(
                f"points[{row}].id", f"is {id_!r} like points[{first[id_]}].id; give each id once in a batch"
            )
            for row, id_ in enumerate(ids)
            if first.setdefault(id_, row) != row
        ]
        if violations:
            message = f"{violations[0].field} {violations[0].description}"
            raise ServiceError(Problem(Reason.DUPLICATE_ID, message, violations))

    def _check_vectors(self, vectors: FloatMatrix, count: int, storage: Encoding) -> None:
        dimension_count = self._database.header.dimension_count
        if vectors.shape != (count, dimension_count) or vectors.dtype != np.float32:
            raise refusal(
                Reason.INVALID_VECTOR,
                f"vectors must be float32 [{count}, {dimension_count}], got {vectors.dtype} {list(vectors.shape)}; "
                f"collection {self.id!r} takes {dimension_count} values for each point",
                "vectors",
            )
        violations = [
            FieldViolation(f"vectors[{row}]", description) for row, description in _unfit(vectors, storage).items()
        ]
        if violations:
            message = f"{violations[0].field} {violations[0].description}: leave it out or scale it"
            raise ServiceError(Problem(Reason.INVALID_VECTOR, message, violations))


def _within(rows: Generator[Row, None, None], byte_limit: int | None) -> Iterator[Row]:
    """Passes rows on, but no more than one answer can hold: a few ids or a query may name gigabytes of text."""
    size = 0
    with closing(rows):  # before the connection is
        for row in rows:
            size += sum(len(value) for value in row if isinstance(value, str | bytes))  # at least so many bytes
            if byte_limit is not None and size > byte_limit:
                raise ServiceError(response_too_large(size, byte_limit))
            yield row


def _unfit(vectors: FloatMatrix, storage: Encoding) -> dict[int, str]:
    low, high = _LENGTHS.get(storage, _OTHER_LENGTHS)
    sizes = lengths(vectors)
    bad = np.flatnonzero(~((sizes >= low) & (sizes <= high)))  # NaN compares false, infinity is too long
    wanted = f"must be finite, not zero, and of a length from {low:g} to {high:g} for {storage} storage"
    return {row: f"has length {sizes[row]:g}; it {wanted}" for row in bad.tolist()}
