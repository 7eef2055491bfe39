"""CollectionStore: work on one collection's files holds up nobody who wants another, and is done by one thread at a time."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from weakref import WeakValueDictionary

import pytest

from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index import CollectionHandle, CollectionStore
from whit.server.index import store as store_module
from whit.server.service.collections import CollectionService
from whit.server.service.storage import Storage
from whit.v1 import collection_pb2

WAIT_S = 20  # for what another thread does at once, unless it is held up


@pytest.fixture
def data_dir(tmp_path):
    """A data directory with the collections "a", "b" and "c"."""
    with CollectionStore(tmp_path, background=False) as store:
        for name in "abc":
            make(store, name)
    return tmp_path


@pytest.fixture
def store(data_dir):
    with CollectionStore(data_dir, background=False) as store:
        yield store


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def make(store, name):
    return store.create(name, model_id="m", fingerprint="f", dimension_count=2, storage=Encoding.FLOAT32)


def ids_of(infos):
    return [info.id for info in infos]


def before(monkeypatch, name, work):
    """Calls ``work`` with the first argument of each call of ``store_module.name``, before the call."""
    original = getattr(store_module, name)

    def wrapped(first, *args):
        work(first)
        return original(first, *args)

    monkeypatch.setattr(store_module, name, wrapped)


WORK = {
    "looked into": ("Database", lambda store: store.describe(["a"])),
    "loaded": ("CollectionHandle", lambda store: store.open("a")),
    "made": ("create_database", lambda store: make(store, "new")),
    "deleted": ("remove_directory", lambda store: store.delete("a")),
}


@pytest.mark.parametrize(("step", "work"), WORK.values(), ids=WORK.keys())
def test_others_are_used_while_a_collection_is(store, pool, monkeypatch, step, work):
    handle, counts = store.open("b"), []

    def use_others(_):
        monkeypatch.undo()
        counts.append(pool.submit(lambda: store.open("b").count()).result(WAIT_S))
        counts.append(pool.submit(lambda: store.open("c").count()).result(WAIT_S))
        counts.append(pool.submit(lambda: len(store.describe(["b", "c"]))).result(WAIT_S))

    before(monkeypatch, step, use_others)
    work(store)

    assert counts == [0, 0, 2]
    assert store.open("b") is handle


def test_a_collection_is_loaded_once_however_many_threads_want_it(store, pool, monkeypatch):
    loaded, start = [], threading.Barrier(8)
    before(monkeypatch, "CollectionHandle", loaded.append)

    def open_at_once(_):
        start.wait(WAIT_S)
        return store.open("a")

    assert len(set(pool.map(open_at_once, range(8)))) == 1
    assert loaded == ["a"]


def test_a_name_is_made_once_however_many_threads_want_it(store, pool):
    start = threading.Barrier(8)

    def make_at_once(_):
        start.wait(WAIT_S)
        try:
            return make(store, "new").id
        except ServiceError as error:
            return error.problem.reason

    assert sorted(pool.map(make_at_once, range(8))) == sorted(["new"] + 7 * [Reason.COLLECTION_EXISTS])


def test_one_deleted_while_others_are_described_is_skipped(store, monkeypatch, caplog):
    def delete_next(directory):
        monkeypatch.undo()
        assert directory.name == "a"
        store.delete("b")

    before(monkeypatch, "Database", delete_next)
    with caplog.at_level(logging.WARNING):
        assert ids_of(store.describe(["a", "b", "c"])) == ["a", "c"]
    assert not caplog.records


def test_one_that_is_loaded_while_the_store_closes_is_closed_too(store, pool, monkeypatch):
    has_begun, closing, closed = threading.Event(), [], []

    class Turns(WeakValueDictionary):
        def values(self):  # what the store's close looks at after it has begun
            has_begun.set()
            return super().values()

    def close_store(_):
        closing.append(pool.submit(store.close))
        assert has_begun.wait(WAIT_S)

    def close(handle, *args, **options):
        closed.append(repr(handle))
        close_handle(handle, *args, **options)

    close_handle = CollectionHandle.close
    monkeypatch.setattr(store, "_turns", Turns())
    monkeypatch.setattr(CollectionHandle, "close", close)
    before(monkeypatch, "CollectionHandle", close_store)
    with pytest.raises(ServiceError, match="stopping"):
        store.open("a")
    closing[0].result(WAIT_S)
    assert len(closed) == 1
    with pytest.raises(ServiceError, match="stopping"):
        store.describe(["b"])


def test_deleting_loads_no_graph(store, monkeypatch):
    loaded = []
    before(monkeypatch, "CollectionHandle", loaded.append)
    assert store.delete("a") == 0
    assert loaded == []


def test_a_page_opens_no_more_collections_than_it_holds(store, monkeypatch):
    opened = []
    before(monkeypatch, "Database", lambda directory: opened.append(directory.name))

    service = CollectionService(SimpleNamespace(storage=Storage(store, reader_count=1)))
    names, token = [], ""
    for page in ("a", "b", "c"):
        request = collection_pb2.ListCollectionsRequest(page_size=1, page_token=token)
        response = asyncio.run(service.list_collections(request, None))
        names += [collection.name for collection in response.collections]
        token = response.next_page_token
        assert opened[-1] == page
    assert names == ["collections/a", "collections/b", "collections/c"]
    assert opened == ["a", "b", "c"]
    assert not token
