"""Each worker has a core of its own where there is one for each, and a lone text still has all of them."""

import asyncio
import os
import sys
import threading

import numpy as np
import pytest

from tests.support.fake_engine import RAW, FakeEncoder, make_engine, make_model
from whit.server.engine import Lane
from whit.server.engine.places import Place, places
from whit.server.engine.workers import run_from

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity of one thread")
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def in_a_thread(work):
    """What the work gives, in a thread that ends: it may do what it likes with its affinity."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def affinity():
    return os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("count", "cores", "expected"),
    [
        (3, {5, 0, 2}, [0, 2, 5]),
        (2, {5, 0, 2}, [None, None]),  # a quota, say: other processes with one would choose the same two
        (4, {5, 0, 2}, [None] * 4),
        (1, {3}, [None]),
    ],
)
def test_there_is_a_core_for_each_worker_or_for_none(count, cores, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores)
    assert [place.core for place in places(count)] == expected


def test_a_thread_keeps_to_its_core_but_where_it_shares_its_work():
    place = Place(CORES[-1], CORES)

    def work():
        place.take()
        kept, inherited = affinity(), in_a_thread(affinity)
        with place.left():
            shared, free = affinity(), in_a_thread(affinity)
        return kept, inherited, shared, free, affinity()

    own, every = {CORES[-1]}, set(CORES)
    assert in_a_thread(work) == (own, own, every, every, own)


def test_a_core_that_was_taken_away_is_no_error():
    def work():
        Place(100_000, [100_000]).take()
        return affinity()

    assert in_a_thread(work) == set(CORES)


def test_no_place_is_anywhere():
    def work():
        with Place().left():
            Place().take()
        return affinity()

    assert in_a_thread(work) == set(CORES)


@pytest.mark.parametrize(("core_count", "expected"), [(1, {CORES[0]} if CORES else None), (2, set(CORES))])
def test_a_text_on_several_cores_is_not_kept_on_one(core_count, expected):
    class Encoder(FakeEncoder):
        def run(self, sequences, layer_count=0, core_count=1):
            self.affinity = affinity()
            return super().run(sequences)

    model, place = make_model(encoder=Encoder()), Place(CORES[0], CORES)

    def work():
        place.take()
        run_from(place, model, [np.array([1, 2, 3])], 0, core_count)
        return affinity()

    assert in_a_thread(work) == {CORES[0]}
    assert model.encoder.affinity == expected


@pytest.mark.skipif(len(CORES) < 2, reason="one core is no choice")
@pytest.mark.parametrize("lane", Lane)
def test_workers_run_on_different_cores_in_both_lanes(lane):
    class Encoder(FakeEncoder):
        def __init__(self):
            super().__init__()
            self.cores = []

        def run(self, sequences, layer_count=0, core_count=1):
            self.cores.append(affinity())
            return super().run(sequences)

    async def main():
        model = make_model(encoder=Encoder())
        model.encoder.gate.clear()
        async with make_engine(model, workers=len(CORES)) as engine:
            texts = ["0123456789"] * 6 * len(CORES)
            call = asyncio.create_task(engine.embed_texts("m", texts, RAW, lane=lane, deadline=None, wait=True))
            for _ in CORES:  # the gate is shut: all workers are inside at once
                assert await asyncio.to_thread(model.encoder.started.acquire, timeout=10)
            model.encoder.gate.set()
            await call
        assert sorted(map(sorted, model.encoder.cores[: len(CORES)])) == [[core] for core in CORES]

    asyncio.run(main())
    assert affinity() == set(CORES)
