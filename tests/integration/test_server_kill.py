"""A server under continuous upserts is killed 20 times: every acknowledged point is found after restart, none is damaged."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.support.server import tiny_package
from tests.support.waiting import wait_until
from whit.client import Client, Point, RetryPolicy, WhitError

KILL_COUNT = 20
BATCH = 8
WORDS = [
    "amber",
    "basalt",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "gravel",
    "harbour",
    "island",
    "juniper",
    "kelp",
    "lichen",
]


class Server:
    """``whit serve`` as users start it, over the same data each time."""

    def __init__(self, folder):
        self._folder = folder

    def start(self):
        log = self._folder / "log"
        command = [sys.executable, "-m", "whit.cli", "serve", "--models", str(tiny_package(prompts=False))]
        command += ["--data", str(self._folder / "data"), "--listen", "127.0.0.1:0"]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stderr=output)
        for _ in range(1500):
            if found := re.search(r"listening on (\S+)\n", log.read_text()):
                return found[1]
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"the server did not listen: {log.read_text()}")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:  # the test failed
            self.kill()


def text_of(id_, version):
    """What that version of that point says; no two are alike."""
    random_ = random.Random(f"{id_} {version}")
    return f"{' '.join(random_.sample(WORDS, 6))} {id_} {version}"


class Writers:
    """One writes with Upsert, one with StreamUpsert, until the server is gone. Each owns the ids of its number."""

    def __init__(self, address, versions, round_number):
        self.acknowledged = {}  # id -> the last version answered with OK
        self.attempted = {}  # id -> versions sent
        self._client = Client(address, retry=RetryPolicy(attempt_count=1))
        self._versions, self._round = versions, round_number
        self._threads = [
            threading.Thread(target=self._run, args=(w, i)) for i, w in enumerate((self._calls, self._stream))
        ]
        for thread in self._threads:
            thread.start()

    def join(self):
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _run(self, write, number):
        with contextlib.suppress(WhitError):  # the server is gone
            write(self._batches(number))

    def _batches(self, number):
        random_ = random.Random(f"{self._round} {number}")
        while True:
            ids = [f"{number}-{i}" for i in random_.sample(range(400), BATCH)]
            for id_ in ids:
                self._versions[id_] = self._versions.get(id_, 0) + 1
                self.attempted.setdefault(id_, []).append(self._versions[id_])
            yield [Point(id_, text_of(id_, self._versions[id_]), {"version": self._versions[id_]}) for id_ in ids]

    def _calls(self, batches):
        for batch in batches:
            self._client.upsert(
                "c",
                ids=[p.id for p in batch],
                texts=[p.text for p in batch],
                metadata=[p.metadata for p in batch],
            )
            self._note(batch)

    def _stream(self, batches):
        sent = []

        def points():
            for batch in batches:
                sent.append(batch)
                yield from batch

        results = self._client.upsert_stream("c", points(), batch_size=BATCH)
        for number, result in enumerate(results):
            assert [item.id for item in result.items] == [p.id for p in sent[number]]
            self._note(sent[number])

    def _note(self, batch):
        for point in batch:
            self.acknowledged[point.id] = point.metadata["version"]


def check(client, acknowledged, attempted, random_):
    """Every acknowledged point is there, no older than acknowledged, whole, with its own vector, and found by search."""
    ids = sorted(acknowledged)
    found = {p.id: p for at in range(0, len(ids), 200) for p in client.get("c", ids[at : at + 200], with_vectors=True)}
    assert sorted(found) == ids
    versions = {id_: point.metadata["version"] for id_, point in found.items()}
    lost = [id_ for id_ in ids if versions[id_] < acknowledged[id_] or versions[id_] not in attempted[id_]]
    assert lost == []
    assert [p.id for p in found.values() if p.text != text_of(p.id, versions[p.id])] == []

    sample = random_.sample(ids, min(len(ids), 64))
    texts = [found[id_].text for id_ in sample]
    wanted = client.embed(texts, model="tiny").vectors
    assert np.array_equal(np.stack([found[id_].vector for id_ in sample]), wanted)
    assert [result.hits[0].id for result in client.search_batch("c", texts, limit=1)] == sample


@pytest.mark.timeout(300)
def test_every_acknowledged_point_survives_20_kills(tmp_path):
    random_ = random.Random(5)
    versions, acknowledged, attempted = {}, {}, {}
    with Server(tmp_path) as server:
        address = server.start()
        with Client(address) as client:
            client.create_collection("c", model="tiny", storage="float32")
        for round_number in range(KILL_COUNT):
            writers = Writers(address, versions, round_number)
            wait_until(writers.acknowledged.__len__)
            time.sleep(random_.uniform(0, 0.5))
            server.kill()
            writers.join()
            acknowledged |= writers.acknowledged
            for id_, sent in writers.attempted.items():
                attempted.setdefault(id_, []).extend(sent)
            address = server.start()
            with Client(address) as client:
                check(client, acknowledged, attempted, random_)

        assert server.stop() == 0
