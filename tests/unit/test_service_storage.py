"""The index under the event loop: writes one at a time and in order, loads once, and neither holds up others."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from whit.contract.vectors import Encoding
from whit.server.index import CollectionStore
from whit.server.index import store as store_module
from whit.server.service.storage import Storage

WAIT_S = 20  # for what another thread does at once, unless it is held up


class NoStore:
    """Collections that nobody asks for."""

    def close(self) -> None:
        pass


def test_a_write_whose_caller_has_left_is_finished_before_the_next_begins() -> None:
    begun, may_end = threading.Event(), threading.Event()
    written: list[str] = []

    def slow() -> None:
        begun.set()
        assert may_end.wait(10)
        written.append("abandoned")

    async def scenario() -> None:
        store: Any = NoStore()
        storage = Storage(store, reader_count=1)
        abandoned = asyncio.create_task(storage.write("c", slow))
        await asyncio.to_thread(begun.wait, 10)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        later = asyncio.create_task(storage.write("c", written.append, "acknowledged"))
        await storage.write("another", written.append, "of another collection")
        assert written == ["of another collection"]
        may_end.set()
        await later
        assert written == ["of another collection", "abandoned", "acknowledged"]
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_write_that_fails_lets_the_next_one_in() -> None:
    written: list[str] = []

    def broken() -> None:
        raise OSError("disk full")

    async def scenario() -> None:
        store: Any = NoStore()
        storage = Storage(store, reader_count=1)
        outcomes = await asyncio.gather(
            storage.write("c", broken), storage.write("c", written.append, "next"), return_exceptions=True
        )
        assert isinstance(outcomes[0], OSError)
        assert written == ["next"]
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with the collections "big" and "small"."""
    with CollectionStore(tmp_path, background=False) as store:
        for name in ("big", "small"):
            store.create(name, model_id="m", fingerprint="f", dimension_count=2, storage=Encoding.FLOAT32)
    return tmp_path


def test_a_collection_is_loaded_once_and_meanwhile_others_are_opened(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls want it or wait to list it, and however long its graph takes."""
    may_load, loaded = threading.Event(), []
    load = store_module.CollectionHandle

    def slow(collection_id: str, *args: Any) -> Any:
        loaded.append(collection_id)
        assert collection_id == "small" or may_load.wait(WAIT_S)
        return load(collection_id, *args)

    monkeypatch.setattr(store_module, "CollectionHandle", slow)

    async def scenario() -> None:
        storage = Storage(CollectionStore(data_dir, background=False), reader_count=1)
        calls = [asyncio.create_task(storage.open("big")) for _ in range(8)]
        listings = [asyncio.create_task(storage.list(["big", "small"])) for _ in range(8)]
        await asyncio.sleep(0)
        _handle, info = await asyncio.wait_for(storage.open("small"), WAIT_S)
        assert info.id == "small"
        assert not any(call.done() for call in calls)
        calls[0].cancel()  # one that leaves does not take the collection from the others
        may_load.set()
        found = await asyncio.gather(*calls[1:])
        assert {id(handle) for handle, _ in found} == {id(found[0][0])}
        for listed in await asyncio.gather(*listings):
            assert [info.id for info in listed] == ["big", "small"]
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), 2 * WAIT_S))
    assert sorted(loaded) == ["big", "small"]


def test_a_collection_that_cannot_be_loaded_is_told_to_each_call_and_tried_again(data_dir: Path) -> None:
    async def scenario() -> None:
        storage = Storage(CollectionStore(data_dir, background=False), reader_count=1)
        for _ in range(2):
            outcomes = await asyncio.gather(*(storage.open("none") for _ in range(3)), return_exceptions=True)
            assert [str(outcome) for outcome in outcomes] == 3 * [
                "there is no collection 'none'; list the collections or create it first"
            ]
        assert not storage._loading
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        left = asyncio.create_task(storage.open("none"))
        await asyncio.sleep(0)
        [loading] = storage._loading.values()
        left.cancel()
        await asyncio.wait([loading])
        await asyncio.sleep(0)
        del loading
        gc.collect()
        assert left.cancelled()
        assert not complaints
        await asyncio.to_thread(storage.close)

    asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
