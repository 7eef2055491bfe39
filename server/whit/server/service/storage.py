"""The index, called from the event loop: look-ups, searches, writes and loads in pools of their own, one write a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from whit.server.index import CollectionHandle, CollectionInfo, CollectionStore

P = ParamSpec("P")
T = TypeVar("T")

# A write spends its time in fsync, so these threads are more than the cores.
_WRITERS = 4

# Loading waits for the disk and for whoever works on the same collection; listing, for what is being loaded.
_LOADERS = 4
_LISTERS = 2


class Storage:
    """The collections of the data directory, and the threads that work on them.

    A call that is cancelled leaves its thread to finish what it does: a write is then on disk or not, never half. Until it has
    finished, later writes of that collection wait, so that it cannot undo what was acknowledged after it.
    """

    def __init__(self, store: CollectionStore, *, reader_count: int) -> None:
        self.store = store
        self._readers = ThreadPoolExecutor(reader_count, thread_name_prefix="whit-read")
        self._searchers = ThreadPoolExecutor(reader_count, thread_name_prefix="whit-search")
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="whit-write")
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="whit-load")
        self._listers = ThreadPoolExecutor(_LISTERS, thread_name_prefix="whit-list")
        self._loading: dict[str, asyncio.Future[object]] = {}
        # So that writers of one collection queue here, not in the threads that other collections need.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self, collection_id: str) -> tuple[CollectionHandle, CollectionInfo]:
        """The handle and description of a collection.

        One that is not in memory is loaded once, however many calls wait for it, and holds up no others: a large graph takes
        seconds.

        Raises:
            ServiceError: as ``CollectionStore.open``.
        """
        if not self.store.is_loaded(collection_id):
            loading = self._loading.get(collection_id)
            if loading is None:
                loading = asyncio.get_running_loop().run_in_executor(self._loaders, self.store.open, collection_id)
                self._loading[collection_id] = loading
                loading.add_done_callback(partial(self._loaded, collection_id))
            await asyncio.shield(loading)  # a call that leaves does not take it from the others

        def work() -> tuple[CollectionHandle, CollectionInfo]:
            handle = self.store.open(collection_id)
            return handle, handle.info

        return await self.read(work)

    def _loaded(self, collection_id: str, loading: asyncio.Future[object]) -> None:
        del self._loading[collection_id]
        if not loading.cancelled():
            loading.exception()  # no call may be left to hear of it, and asyncio would log that

    async def list(self, collection_ids: Sequence[str]) -> Sequence[CollectionInfo]:
        """Describes collections, as ``CollectionStore.describe``; those that are being loaded are waited for."""
        return await asyncio.get_running_loop().run_in_executor(self._listers, self.store.describe, collection_ids)

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``work``, which is short, in a reading thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: work(*args, **kwargs))

    async def search(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``work``, a part of a search, in a searching thread: a search holds up other searches alone."""
        return await asyncio.get_running_loop().run_in_executor(self._searchers, lambda: work(*args, **kwargs))

    async def write(self, collection_id: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``work`` in a writing thread, after the writes to that collection that came before."""
        turn = self._turns.get(collection_id)
        if turn is None:
            turn = self._turns[collection_id] = asyncio.Lock()
        await turn.acquire()
        loop = asyncio.get_running_loop()
        try:
            written = self._writers.submit(work, *args, **kwargs)
        except BaseException:
            turn.release()
            raise
        # The turn is over with the thread, not with this call, whose caller may leave before.
        written.add_done_callback(lambda _: loop.call_soon_threadsafe(turn.release))
        return await asyncio.wrap_future(written)

    def close(self) -> None:
        """Waits for the threads, then saves and closes the collections. Blocks."""
        self._writers.shutdown()
        self._searchers.shutdown()
        self._readers.shutdown()
        self._loaders.shutdown()
        self._listers.shutdown()
        self.store.close()
