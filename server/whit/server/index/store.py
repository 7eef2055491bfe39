"""All collections below a data directory: made, listed, opened and deleted, and looked after by one thread."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from whit.contract.errors import Problem, Reason
from whit.contract.names import collection_name, parse_collection_name
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index.collection import CollectionHandle
from whit.server.index.database import Database, Header, create_database
from whit.server.index.files import (
    DirectoryLock,
    make_directories,
    publish_directory,
    remove_directory,
    remove_leftovers,
    staging_directory,
)
from whit.server.index.problems import refusal, storage_errors
from whit.server.index.types import STORAGES, CollectionInfo

log = logging.getLogger(__name__)

_COLLECTIONS = "collections"
# Collections with files open and rows cached; the others rest, so that any number of them may be opened.
_AWAKE_COUNT = 64


class CollectionStore:
    """The collections of one data directory, which one store at a time may hold. Thread-safe.

    A collection is made, loaded, looked into and deleted by one thread at a time; meanwhile others work with all others.

    With ``background`` (the default) one thread maintains the graphs; without, only ``CollectionHandle.maintain`` does.
    """

    def __init__(self, data_dir: Path, *, background: bool = True) -> None:
        """Locks the data directory, making it if need be, and clears away what a crash left half made or half deleted.

        Raises:
            DataDirectoryLocked: another process, which the message names, holds it.
            ServiceError: STORAGE_FULL or STORAGE_FAILED.
        """
        self._root = data_dir / _COLLECTIONS
        self._handles: dict[str, CollectionHandle] = {}
        self._awake: OrderedDict[CollectionHandle, None] = OrderedDict()  # the last used ones, the oldest first
        self._lock = threading.Lock()  # never held while a file is touched
        # Of the threads that want a collection's files.
        self._turns: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()
        self._closed = False
        self._due: set[CollectionHandle] = set()
        self._changed = threading.Condition()
        with storage_errors(data_dir):
            make_directories(self._root)
            self._directory_lock = DirectoryLock(data_dir)
        try:
            with storage_errors(data_dir):
                remove_leftovers(self._root)
        except BaseException:
            self._directory_lock.release()
            raise
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._maintain, name="whit-index", daemon=True)
            self._thread.start()

    def create(
        self, collection_id: str, *, model_id: str, fingerprint: str, dimension_count: int, storage: Encoding
    ) -> CollectionInfo:
        """Makes an empty collection, bound for life to ``fingerprint``.

        Raises:
            ServiceError: INVALID_REQUEST, COLLECTION_EXISTS, STORAGE_FULL or STORAGE_FAILED.
        """
        if dimension_count < 1:
            message = f"dimension_count must be at least 1, got {dimension_count}"
            raise refusal(Reason.INVALID_REQUEST, message, "collection.dimension_count")
        if storage not in STORAGES:
            message = f"storage must be one of {', '.join(STORAGES)}, got {storage}"
            raise refusal(Reason.INVALID_REQUEST, message, "collection.storage")
        with self._turn(collection_id):
            directory = self._directory(collection_id)
            if directory.exists():
                raise refusal(
                    Reason.COLLECTION_EXISTS,
                    f"collection {collection_id!r} exists already; use it, delete it first or choose another name",
                )
            self._drop(collection_id)  # of a directory that was removed by hand
            with storage_errors(directory), staging_directory(self._root) as staging:
                create_database(staging, Header(model_id, fingerprint, dimension_count, storage, datetime.now(UTC)))
                publish_directory(staging, collection_id)
            return self.open(collection_id).info

    def list(self) -> Sequence[CollectionInfo]:
        """All collections by id, as ``describe`` gives them."""
        return self.describe(self.ids())

    def ids(self) -> Sequence[str]:
        """The ids of all collections, sorted. Nothing is opened for it."""
        self._check_open()
        with storage_errors(self._root):
            return sorted(path.name for path in self._root.iterdir() if _is_collection_id(path.name))

    def describe(self, collection_ids: Iterable[str]) -> Sequence[CollectionInfo]:
        """These collections, less those deleted meanwhile, without loading their graphs.

        One that cannot be read is logged and left out; ``info`` says what is wrong with it.
        """
        infos = []
        for collection_id in collection_ids:
            try:
                infos.append(self._peek(collection_id))
            except ServiceError as error:
                if error.problem.reason is Reason.SHUTTING_DOWN:
                    raise
                if error.problem.reason is not Reason.COLLECTION_NOT_FOUND:
                    log.error("collection %s is not listed: %s", collection_id, error)  # noqa: TRY400
        return infos

    def open(self, collection_id: str) -> CollectionHandle:
        """The handle of a collection: the same one every time, until it is deleted.

        Raises:
            ServiceError: COLLECTION_NOT_FOUND, or STORAGE_FAILED if it is damaged or made by a newer version.
        """
        handle = self._loaded(collection_id)
        if handle is None:
            with self._turn(collection_id):
                handle = self._loaded(collection_id) or self._load(collection_id)
        self._use(handle)
        self._check_open()  # it may have been closed while the handle was made
        return handle

    def is_loaded(self, collection_id: str) -> bool:
        """Whether ``open`` has no graph to load. Touches no file."""
        return self._loaded(collection_id) is not None

    def delete(self, collection_id: str) -> int:
        """Deletes a collection, damaged or not, and returns how many points it had (0 if that cannot be read)."""
        with self._turn(collection_id):
            directory = self._existing(collection_id)
            try:
                point_count = self._peek(collection_id).point_count
            except ServiceError as error:
                log.warning("collection %s is deleted unread: %s", collection_id, error)
                point_count = 0
            self._drop(collection_id)
            with storage_errors(directory):
                remove_directory(directory)
            return point_count

    def close(self) -> None:
        """Stops maintenance, saves the graphs, closes all collections, gives the data directory free. May be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            turns = [*self._turns.values()]
        for turn in turns:
            with turn:  # whoever has it now finishes first, and nobody gets one any more
                pass
        with self._lock:
            handles = [*self._handles.values()]
            self._handles.clear()
        # Last pushed, first done, and all of it even if a step fails.
        with ExitStack() as steps:
            steps.callback(self._directory_lock.release)
            steps.callback(self._join)
            for handle in handles:
                steps.callback(handle.close, _SHUTTING_DOWN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    @contextmanager
    def _turn(self, collection_id: str) -> Iterator[None]:
        """Waits for other threads that work on this collection's files, and keeps them out."""
        with self._lock:
            turn = self._turns.get(collection_id)
            if turn is None:
                turn = self._turns[collection_id] = threading.RLock()
        with turn:
            self._check_open()
            yield

    def _loaded(self, collection_id: str) -> CollectionHandle | None:
        with self._lock:
            self._check_open()
            return self._handles.get(collection_id)

    def _use(self, handle: CollectionHandle) -> None:
        """Notes that files of a collection may be open. Puts to rest those that were not used for the longest time."""
        with self._lock:
            if self._handles.get(handle.id) is not handle:
                return  # deleted meanwhile, or not yet there
            self._awake[handle] = None
            self._awake.move_to_end(handle)
            resting = [self._awake.popitem(last=False)[0] for _ in range(len(self._awake) - _AWAKE_COUNT)]
        for oldest in resting:
            oldest.rest()

    def _load(self, collection_id: str) -> CollectionHandle:
        """Makes the handle of a collection; to be called in its turn."""
        handle = CollectionHandle(collection_id, self._existing(collection_id), self._wake, self._use)
        with self._lock:
            self._handles[collection_id] = handle
        return handle

    def _drop(self, collection_id: str) -> None:
        """Closes the handle of a collection that is no more, if it is loaded; to be called in its turn."""
        with self._lock:
            handle = self._handles.pop(collection_id, None)
            if handle:
                self._awake.pop(handle, None)
        if handle:
            handle.close(_not_found(collection_id), save=False)

    def _rest_unless_awake(self, handle: CollectionHandle) -> None:
        with self._lock:
            awake = handle in self._awake
        if not awake:
            handle.rest()

    def _peek(self, collection_id: str) -> CollectionInfo:
        """The info of a collection without loading its graph."""
        with self._turn(collection_id):
            handle = self._handles.get(collection_id)
            if handle:
                info = handle.glance()
                self._rest_unless_awake(handle)
                return info
            directory = self._existing(collection_id)
            with storage_errors(directory):
                database = Database(directory)
                try:
                    with database.read() as view:
                        return database.header.info(collection_id, view.state.point_count)
                finally:
                    database.close(_SHUTTING_DOWN)

    def _directory(self, collection_id: str) -> Path:
        try:
            parse_collection_name(collection_name(collection_id))
        except ValueError as error:
            raise refusal(Reason.INVALID_REQUEST, f"collection name {error}", "collection.name") from None
        return self._root / collection_id

    def _existing(self, collection_id: str) -> Path:
        directory = self._directory(collection_id)
        if not directory.is_dir():
            raise ServiceError(_not_found(collection_id))
        return directory

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceError(_SHUTTING_DOWN)

    def _wake(self, handle: CollectionHandle) -> None:
        with self._changed:
            self._due.add(handle)
            self._changed.notify_all()

    def _maintain(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
                handle = self._due.pop()
            try:
                handle.maintain()
                self._rest_unless_awake(handle)
            except ServiceError as error:
                if error.problem.reason is not Reason.COLLECTION_NOT_FOUND:  # deleted meanwhile
                    log.warning("%r is not maintained: %s", handle, error)
            except Exception:
                # Answers stay right without the graph, so a defect here must not take the server down.
                log.exception("%r is not maintained; it is scanned instead", handle)


_SHUTTING_DOWN = Problem(
    Reason.SHUTTING_DOWN, "the server is stopping; send this again to another server or later", retry_after_s=1.0
)


def _not_found(collection_id: str) -> Problem:
    return Problem(
        Reason.COLLECTION_NOT_FOUND,
        f"there is no collection {collection_id!r}; list the collections or create it first",
    )


def _is_collection_id(name: str) -> bool:
    try:
        parse_collection_name(collection_name(name))
    except ValueError:
        return False
    return True
