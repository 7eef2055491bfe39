"""A process that writes without pause is killed again and again: what it had acknowledged is there, whole, every time.

Run as a program, this file is the nursery: for each line it reads it forks a writer, tells its pid, and tells when it is
dead. Forking saves 20 times the start of an interpreter.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.waiting import wait_until
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding, decode
from whit.server.errors import ServiceError
from whit.server.index import CollectionStore, DataDirectoryLocked, PointWrite, keeper

DIMENSIONS = 24
ID_COUNT = 500
KILL_COUNT = 20


def vector_of(id_, version):
    """The vector that version of that point has: float32 [DIMENSIONS]."""
    return np.random.default_rng([int(id_), version]).standard_normal(DIMENSIONS).astype(np.float32)


def point_of(id_, version):
    return PointWrite(id_, f"{version} " + "text " * (version % 200), f'{{"version": {version}}}')


def small_graphs():
    """Graphs are extended, rebuilt and saved all the time, so that kills hit every stage."""
    keeper.GRAPH_POINT_COUNT, keeper.EXTEND_KEY_COUNT, keeper._SNAPSHOT_KEY_COUNT = 100, 20, 50


def write_for_ever(data_dir, round_number):
    """Upserts random points and notes each as acknowledged, with its version, when ``upsert`` has returned."""
    rng = random.Random(round_number)
    acknowledged = os.open(data_dir / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handle = CollectionStore(data_dir).open("c")
    version = round_number * 1_000_000
    while True:
        ids = [str(i) for i in rng.sample(range(ID_COUNT), rng.randint(1, 16))]
        version += 1
        vectors = np.stack([vector_of(id_, version) for id_ in ids])
        handle.upsert([point_of(id_, version) for id_ in ids], vectors)
        os.write(acknowledged, "".join(f"{id_} {version}\n" for id_ in ids).encode())


def nursery():
    small_graphs()
    for line in sys.stdin:
        data_dir, round_number = line.split()
        pid = os.fork()
        if pid == 0:
            write_for_ever(Path(data_dir), int(round_number))
        print(pid, flush=True)  # noqa: T201
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


class Nursery:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.test_index_kill"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, data_dir, round_number):
        self.process.stdin.write(f"{data_dir} {round_number}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture
def nursery_process():
    nursery = Nursery()
    yield nursery
    nursery.close()


def create(data_dir, storage=Encoding.FLOAT32):
    with CollectionStore(data_dir, background=False) as store:
        store.create("c", model_id="m", fingerprint="f", dimension_count=DIMENSIONS, storage=storage)


def acknowledged_in(data_dir):
    """The newest acknowledged version by id. A line that is still being written is none yet."""
    lines = (data_dir / "acknowledged").read_text().split("\n")[:-1] if (data_dir / "acknowledged").exists() else []
    return {id_: int(version) for id_, version in (line.split() for line in lines)}


def check(data_dir, acknowledged):
    """Every acknowledged point is there in that version or a newer one, whole, and is found by its vector."""
    with CollectionStore(data_dir, background=False) as store:
        handle = store.open("c")
        points, missing, encoded = handle.get(sorted(acknowledged), with_vectors=True)
        assert missing == []
        versions = {point.id: int(point.text.split()[0]) for point in points}
        for point in points:
            version = versions[point.id]
            assert version >= acknowledged[point.id]
            assert (point.text, point.metadata) == (point_of(point.id, version).text, f'{{"version": {version}}}')
        wanted = np.array([vector_of(point.id, versions[point.id]) for point in points], np.float32)
        np.testing.assert_array_equal(decode(encoded), wanted.reshape(-1, DIMENSIONS))
        for point, hits in zip(points, handle.search(wanted.reshape(-1, DIMENSIONS), limit=1), strict=True):
            assert (hits[0].id, hits[0].text) == (point.id, point.text)
            assert hits[0].score > 0.9999


def test_acknowledged_points_survive_kill_9(tmp_path, monkeypatch, nursery_process):
    for name in ("GRAPH_POINT_COUNT", "EXTEND_KEY_COUNT", "_SNAPSHOT_KEY_COUNT"):
        monkeypatch.setattr(keeper, name, getattr(keeper, name))  # put back after the test
    small_graphs()
    create(tmp_path)
    rng = random.Random(2)
    counts = []

    def written_in(number):
        return sum(version > number * 1_000_000 for version in acknowledged_in(tmp_path).values())

    for number in range(1, KILL_COUNT + 1):
        pid = nursery_process.start(tmp_path, number)
        if number % 2:  # else it may be killed before it has written at all
            wait_until(partial(written_in, number))
        time.sleep(rng.uniform(0.03, 0.25))
        assert nursery_process.kill(pid) == -signal.SIGKILL
        check(tmp_path, acknowledged_in(tmp_path))
        counts.append(written_in(number))
    assert sum(count > 0 for count in counts) >= KILL_COUNT // 2, f"the writer hardly wrote: {counts}"


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path, nursery_process):
    create(tmp_path)
    pid = nursery_process.start(tmp_path, 1)
    deadline = time.monotonic() + 10
    while not acknowledged_in(tmp_path):
        assert time.monotonic() < deadline
    with pytest.raises(DataDirectoryLocked, match=f"process {pid}"):
        CollectionStore(tmp_path)
    nursery_process.kill(pid)
    CollectionStore(tmp_path).close()


def test_a_point_is_found_at_every_moment_of_being_replaced(tmp_path, monkeypatch):
    """Searches run while the graph is extended, rebuilt and saved behind them: no point is ever missing between versions."""
    for name in ("GRAPH_POINT_COUNT", "EXTEND_KEY_COUNT", "_SNAPSHOT_KEY_COUNT"):
        monkeypatch.setattr(keeper, name, getattr(keeper, name))
    small_graphs()
    create(tmp_path)
    ids = [str(i) for i in range(300)]
    vectors = np.stack([vector_of(id_, 0) for id_ in ids])
    failures, stop = [], threading.Event()
    with CollectionStore(tmp_path) as store:
        handle = store.open("c")
        handle.upsert([point_of(id_, 0) for id_ in ids], vectors)

        def search():
            while not stop.is_set():
                hits = handle.search(vectors[::10], limit=1)
                failures.extend(id_ for id_, (hit,) in zip(ids[::10], hits, strict=True) if hit.id != id_)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for version in range(1, 200):
            some = slice(version % 7, None, 7)
            handle.upsert([point_of(id_, version) for id_ in ids[some]], vectors[some])
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert handle.count() == 300


def upsert_until_refused(handle):
    """Upserts points "0", "1", ... one by one. Returns the ids that were acknowledged, and the refusal."""
    for number in range(10_000):
        try:
            handle.upsert([point_of(str(number), 199)], vector_of(str(number), 199)[None])
        except ServiceError as error:
            return [str(i) for i in range(number)], error.problem
    raise AssertionError("the disk never filled up")


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(tmp_path):
    """The limit on file sizes stands in for a full disk: SQLite's log cannot take another page."""
    create(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CollectionStore(tmp_path, background=False) as store:
        handle = store.open("c")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            acknowledged, problem = upsert_until_refused(handle)
            assert handle.count() == len(acknowledged)  # reading goes on
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert problem.reason in {Reason.STORAGE_FULL, Reason.STORAGE_FAILED}
        assert "nothing of this call was written" in problem.message
        handle.upsert([point_of("after", 199)], vector_of("0", 199)[None])
    with CollectionStore(tmp_path, background=False) as store:
        points, missing, _ = store.open("c").get([*acknowledged, "after"], with_vectors=False)
        assert missing == []
        assert len(points) == store.open("c").count() > 10
        assert all(point.text == point_of(point.id, 199).text for point in points)


if __name__ == "__main__":
    nursery()
