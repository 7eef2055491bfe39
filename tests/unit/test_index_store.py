"""CollectionStore: collections are made, listed, opened, deleted; one process at a time; damage is named."""

import logging
import os
import resource
import shutil
import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.server.errors import ServiceError
from whit.server.index import CollectionStore, DataDirectoryLocked, PointWrite, database, files
from whit.server.index import store as store_module
from whit.server.index.database import DATABASE_FILE, FORMAT_VERSION

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def store(tmp_path):
    with CollectionStore(tmp_path, background=False) as store:
        yield store


def make(store, name="notes", **changes):
    options = {"model_id": "m", "fingerprint": "sha256:1", "dimension_count": 2, "storage": Encoding.FLOAT32}
    return store.create(name, **(options | changes))


def fill(store, name="notes", count=3):
    vectors = np.arange(1, 2 * count + 1, dtype=np.float32).reshape(count, 2)
    return store.open(name).upsert([PointWrite(str(i), f"text {i}") for i in range(count)], vectors)


@contextmanager
def refused(reason, *words):
    with pytest.raises(ServiceError) as caught:
        yield
    assert caught.value.problem.reason is reason
    for word in words:
        assert word in caught.value.problem.message


def test_a_created_collection_says_what_it_is(store):
    info = make(store, storage=Encoding.INT8)
    assert (info.id, info.model_id, info.fingerprint, info.dimension_count) == ("notes", "m", "sha256:1", 2)
    assert (info.storage, info.point_count) == (Encoding.INT8, 0)
    assert info.create_time.tzinfo is UTC
    assert abs((datetime.now(UTC) - info.create_time).total_seconds()) < 60
    assert store.open("notes").info == info


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts open files as Linux shows them")
def test_any_number_of_collections_holds_few_files_open(store, monkeypatch):
    monkeypatch.setattr(store_module, "_AWAKE_COUNT", 3)
    before = len(list(OPEN_FILES.iterdir()))

    handles = []
    for number in range(40):
        make(store, f"c{number}")
        fill(store, f"c{number}")
        handles.append(store.open(f"c{number}"))
    infos = store.list()

    assert [info.point_count for info in infos] == [3] * 40
    assert len(list(OPEN_FILES.iterdir())) - before < 40


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts open files as Linux shows them")
@pytest.mark.parametrize(
    "use",
    [
        lambda handle: handle.upsert([PointWrite("a", "")], np.ones((1, 2), np.float32)),
        lambda handle: handle.upsert([], np.empty((0, 2), np.float32)),
        lambda handle: handle.delete(["0"]),
        lambda handle: handle.get(["0"], with_vectors=True),
        lambda handle: handle.search(np.ones((1, 2), np.float32), limit=1),
        lambda handle: handle.info,
    ],
    ids=["upsert", "upsert of nothing", "delete", "get", "search", "info"],
)
def test_collections_at_rest_that_are_used_again_rest_again(store, monkeypatch, use):
    """As those of long streams, which keep their handles."""
    monkeypatch.setattr(store_module, "_AWAKE_COUNT", 3)
    handles = []
    for number in range(20):
        make(store, f"c{number}")
        fill(store, f"c{number}")
        handles.append(store.open(f"c{number}"))
    before = len(list(OPEN_FILES.iterdir()))

    for handle in handles:
        use(handle)

    assert len(list(OPEN_FILES.iterdir())) - before < 10


def test_a_handle_whose_collection_was_deleted_is_not_kept(store):
    make(store)
    handle = store.open("notes")
    store.delete("notes")
    with refused(Reason.COLLECTION_NOT_FOUND):
        handle.count()
    assert not store._awake


def test_a_resting_collection_is_as_good_as_any(store, monkeypatch):
    monkeypatch.setattr(store_module, "_AWAKE_COUNT", 1)
    make(store, "a")
    fill(store, "a")
    handle = store.open("a")
    make(store, "b")  # from here on "a" rests

    assert handle.upsert([PointWrite("new", "")], np.array([[1, 0]], np.float32)) == 2
    assert handle.count() == 4
    assert handle.search(np.array([[1, 0]], np.float32), limit=1)[0][0].id == "new"
    assert store.delete("b") == 0
    handle.rest()
    assert store.delete("a") == 4
    with refused(Reason.COLLECTION_NOT_FOUND):
        handle.count()
    with refused(Reason.COLLECTION_NOT_FOUND):
        fill(store, "a")


def test_rest_leaves_a_call_in_progress_alone(store):
    make(store)
    fill(store)
    handle = store.open("notes")
    with handle._database.read() as view, handle._database.write() as writer:
        handle.rest()
        assert writer.delete(["0"]) == []
        assert view.count_from(0) == 3
    assert handle.count() == 2


def test_a_new_data_directory_is_put_on_disk_with_its_parents(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "fsync_path", synced.append)

    with CollectionStore(tmp_path / "a" / "b", background=False):
        pass
    with CollectionStore(tmp_path / "a" / "b", background=False):
        pass

    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def without_room(size):
    """``create_database`` on a disk that is full once a database has so many bytes."""

    def create_database(directory, header):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            database.create_database(directory, header)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return create_database


def failing(code, message):
    """``create_database`` that writes half of what it should and fails as SQLite does."""

    def create_database(directory, _):
        (directory / DATABASE_FILE).write_bytes(b"half")
        error = sqlite3.OperationalError(message)
        error.sqlite_errorcode = code
        raise error

    return create_database


@pytest.mark.parametrize(
    ("create_database", "reason", "advice"),
    [
        (failing(sqlite3.SQLITE_FULL, "database or disk is full"), Reason.STORAGE_FULL, "free some space"),
        (failing(sqlite3.SQLITE_IOERR, "disk I/O error"), Reason.STORAGE_FAILED, "the disk may be full"),
        (failing(sqlite3.SQLITE_IOERR_SHMSIZE, "disk I/O error"), Reason.STORAGE_FULL, "free some space"),
        (failing(sqlite3.SQLITE_CANTOPEN, "unable to open"), Reason.STORAGE_FAILED, "the disk may be full"),
        (without_room(0), Reason.STORAGE_FAILED, "the disk may be full"),
        (without_room(16384), Reason.STORAGE_FULL, "free some space"),
    ],
)
def test_a_collection_that_finds_no_room_leaves_nothing(store, tmp_path, monkeypatch, create_database, reason, advice):
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "create_database", create_database)
        with refused(reason, str(tmp_path), "nothing of this call was written", advice):
            make(store)

    assert list((tmp_path / "collections").iterdir()) == []
    assert make(store).point_count == 0


def test_everything_is_there_after_reopening(tmp_path):
    with CollectionStore(tmp_path, background=False) as store:
        info = make(store)
        fill(store)
    with CollectionStore(tmp_path, background=False) as store:
        assert store.open("notes").info.create_time == info.create_time
        assert store.open("notes").count() == 3


def test_list_is_sorted_and_counts_closed_collections_too(tmp_path):
    with CollectionStore(tmp_path, background=False) as store:
        make(store, "b")
        make(store, "a")
        fill(store, "a")
    with CollectionStore(tmp_path, background=False) as store:
        fill(store, "b", count=1)
        assert [(info.id, info.point_count) for info in store.list()] == [("a", 3), ("b", 1)]


def test_open_gives_the_same_handle(store):
    make(store)
    assert store.open("notes") is store.open("notes")
    assert "2 x float32" in repr(store.open("notes"))


def test_an_existing_name_is_refused(store):
    make(store)
    with refused(Reason.COLLECTION_EXISTS, "'notes'", "choose another name"):
        make(store, fingerprint="sha256:2")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "a" * 65, ".new-1", "a\0"])
def test_a_name_that_breaks_the_rule_is_refused(store, name):
    with refused(Reason.INVALID_REQUEST, "1 to 64"):
        make(store, name)
    with refused(Reason.INVALID_REQUEST):
        store.delete(name)


def test_storage_and_dimension_count_are_checked(store):
    with refused(Reason.INVALID_REQUEST, "float32, float16, int8"):
        make(store, storage=Encoding.BINARY)
    with refused(Reason.INVALID_REQUEST, "dimension_count"):
        make(store, dimension_count=0)
    assert store.list() == []


def test_an_unknown_collection_is_not_found(store):
    for call in (store.open, store.delete):
        with refused(Reason.COLLECTION_NOT_FOUND, "'nowhere'"):
            call("nowhere")


def test_delete_removes_everything_and_the_name_is_free_again(store, tmp_path):
    make(store)
    fill(store)
    handle = store.open("notes")
    assert store.delete("notes") == 3
    assert list((tmp_path / "collections").iterdir()) == []
    for call in (handle.count, lambda: handle.delete(["1"]), lambda: fill_handle(handle)):
        with refused(Reason.COLLECTION_NOT_FOUND, "'notes'"):
            call()
    make(store, fingerprint="sha256:2")
    assert store.open("notes").count() == 0


def fill_handle(handle):
    handle.upsert([PointWrite("1", "")], np.ones((1, 2), np.float32))


def test_what_a_crash_left_half_made_or_half_deleted_is_removed_at_start(tmp_path):
    with CollectionStore(tmp_path, background=False) as store:
        make(store)
    collections = tmp_path / "collections"
    shutil.copytree(collections / "notes", collections / ".trash-1")
    (collections / ".new-1").mkdir()
    with CollectionStore(tmp_path, background=False) as store:
        assert [path.name for path in collections.iterdir()] == ["notes"]
        assert [info.id for info in store.list()] == ["notes"]


def test_a_second_store_is_refused_by_process_and_directory(store, tmp_path):
    with pytest.raises(DataDirectoryLocked) as caught:
        CollectionStore(tmp_path)
    assert f"process {os.getpid()}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_lock_goes_with_the_store(tmp_path):
    for _ in range(2):
        CollectionStore(tmp_path, background=False).close()


def test_a_data_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with refused(Reason.STORAGE_FAILED, str(tmp_path / "data"), "permissions"):
        CollectionStore(tmp_path / "data")


def test_a_closed_store_refuses(tmp_path):
    store = CollectionStore(tmp_path, background=False)
    make(store)
    handle = store.open("notes")
    store.close()
    store.close()
    for call in (store.list, handle.count, lambda: make(store, "other")):
        with refused(Reason.SHUTTING_DOWN):
            call()


def test_a_collection_of_a_newer_version_is_refused_by_name(tmp_path, caplog):
    with CollectionStore(tmp_path, background=False) as store:
        make(store)
    directory = tmp_path / "collections" / "notes"
    with closing(sqlite3.connect(directory / DATABASE_FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    with CollectionStore(tmp_path, background=False) as store:
        with refused(Reason.STORAGE_FAILED, str(directory), f"version {FORMAT_VERSION + 1}", "upgrade"):
            store.open("notes")
        with caplog.at_level(logging.ERROR):
            assert store.list() == []
        assert "notes" in caplog.text


DAMAGES = {
    "overwritten": lambda file: file.write_bytes(b"not a database at all" * 1000),
    "emptied": lambda file: file.write_bytes(b""),
    "cut short": lambda file: os.truncate(file, 100),
    "scribbled over": lambda file: file.write_bytes(file.read_bytes()[:8192] + b"\xa5" * (file.stat().st_size - 8192)),
    "removed": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_collection_is_refused_can_be_deleted_and_does_not_hide_others(tmp_path, damage):
    with CollectionStore(tmp_path, background=False) as store:
        make(store)
        fill(store)
        make(store, "sound")
    directory = tmp_path / "collections" / "notes"
    damage(directory / DATABASE_FILE)
    with CollectionStore(tmp_path, background=False) as store:
        with refused(Reason.STORAGE_FAILED, f"in {directory} is damaged", "restore"):
            store.open("notes").get(["1"], with_vectors=True)
        assert [info.id for info in store.list()] == ["sound"]
        assert store.delete("notes") == 0
        assert [path.name for path in directory.parent.iterdir()] == ["sound"]


def test_another_sqlite_database_is_not_taken_for_a_collection(tmp_path):
    directory = tmp_path / "collections" / "alien"
    directory.mkdir(parents=True)
    with closing(sqlite3.connect(directory / DATABASE_FILE)) as connection:
        connection.execute("CREATE TABLE collection(x)")
    with CollectionStore(tmp_path, background=False) as store, refused(Reason.STORAGE_FAILED, "not the database"):
        store.open("alien")


def test_nothing_is_acknowledged_that_a_removed_directory_takes_with_it(store, tmp_path):
    """SQLite writes on to a file without a name, and a collection made anew under the name wrote there, too."""
    directory = tmp_path / "collections" / "notes"
    make(store)
    fill(store)
    shutil.rmtree(directory)

    with refused(Reason.STORAGE_FAILED, "points.db was removed or replaced"):
        fill(store)
    assert make(store).point_count == 0
    fill(store, count=2)
    store.close()

    with CollectionStore(tmp_path, background=False) as again:
        assert again.open("notes").info.point_count == 2


def test_a_backup_put_in_place_of_a_database_in_use_is_not_written_past(store, tmp_path):
    path = tmp_path / "collections" / "notes" / DATABASE_FILE
    make(store)
    fill(store)
    shutil.copy(path, tmp_path / "backup")
    (tmp_path / "backup").replace(path)

    with refused(Reason.STORAGE_FAILED, "points.db was removed or replaced", "stop the server and restore"):
        fill(store, count=5)
