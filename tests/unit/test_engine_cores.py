"""What idle workers are good for: large jobs are shared between them, a lone sequence gets their cores."""

import threading
from contextlib import contextmanager

import pytest

from tests.support.scheduling import Clock, make_job, make_scheduler, take


@contextmanager
def idle_workers(scheduler, count):
    """So many threads that wait for work; yields the micro-batches that they take, one each."""
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(scheduler.take())) for _ in range(count)]
    for thread in threads:
        thread.start()
    while scheduler.idle_worker_count < count:
        pass
    try:
        yield taken
    finally:
        scheduler.stop()
        for thread in threads:
            thread.join()


def wait_for(taken, count):
    while len(taken) < count:
        pass


def learned(*, run_s=1e-3, clock=None, **options):
    """A scheduler that knows what a run of its model costs."""
    clock = clock or Clock()
    scheduler = make_scheduler(clock=clock, **options)
    for _ in range(8):
        scheduler.submit(make_job([10])[0])
        batch = take(scheduler)
        assert batch.core_count == 1
        clock.now += run_s
        scheduler.finish(batch)
    return scheduler


def together(scheduler, job, *, idle=2):
    """The first micro-batch that idle workers make of a job."""
    with idle_workers(scheduler, idle) as taken:
        scheduler.submit(job)
        wait_for(taken, 1)
        return taken[0]


def test_idle_workers_share_one_large_job_evenly():
    scheduler = make_scheduler(workers=2, budget=512)
    with idle_workers(scheduler, 2) as taken:
        scheduler.submit(make_job([10] * 64)[0])
        wait_for(taken, 2)
    assert [len(batch.entries) for batch in taken] == [32, 32]


def test_a_small_job_is_not_split():
    scheduler = make_scheduler(workers=2)
    with idle_workers(scheduler, 2) as taken:
        scheduler.submit(make_job([10, 10])[0])
        wait_for(taken, 1)
    assert [batch and len(batch.entries) for batch in taken] == [2, None]


@pytest.mark.parametrize(("most", "idle", "cores"), [(8, 3, 3), (2, 3, 2), (1, 3, 1), (8, 1, 1)])
def test_a_lone_sequence_gets_the_cores_of_idle_workers(most, idle, cores):
    scheduler = learned(workers=3, most_cores=lambda _model: most)
    assert together(scheduler, make_job([10])[0], idle=idle).core_count == cores


def test_sequences_in_company_get_a_core():
    scheduler = learned(workers=2, most_cores=lambda _model: 8)
    assert together(scheduler, make_job([10, 10])[0]).core_count == 1


def test_a_sequence_that_another_waits_behind_gets_a_core():
    """The next one, which the budget has no room for, is for the idle worker."""
    scheduler = learned(workers=2, budget=16, most_cores=lambda _model: 8)
    first = together(scheduler, make_job([10, 10])[0])
    assert (len(first.entries), first.core_count) == (1, 1)


def test_a_sequence_that_the_caller_runs_gets_the_cores_of_all_workers():
    scheduler = learned(workers=3, most_cores=lambda _model: 8)
    [batch] = scheduler.start(make_job([10])[0])
    assert batch.core_count == 3
    scheduler.finish(batch)
    assert [batch.core_count for batch in scheduler.start(make_job([10, 30])[0])] == [1, 1]


@pytest.mark.parametrize(("run_s", "cores"), [(0.4e-3, 1), (0.6e-3, 2)])
def test_what_is_done_at_once_is_not_worth_another_thread(run_s, cores):
    scheduler = learned(run_s=run_s, workers=2, most_cores=lambda _model: 8)
    [batch] = scheduler.start(make_job([10])[0])
    assert batch.core_count == cores


def test_where_calls_have_met_lately_each_gets_a_core():
    clock = Clock()
    scheduler = learned(workers=2, clock=clock, most_cores=lambda _model: 8)
    [first] = scheduler.start(make_job([10])[0])
    [second] = scheduler.start(make_job([10])[0])
    assert [first.core_count, second.core_count] == [2, 1]
    scheduler.finish(first)
    scheduler.finish(second)
    clock.now += 0.05
    [soon] = scheduler.start(make_job([10])[0])
    scheduler.finish(soon)
    clock.now += 0.1
    [later] = scheduler.start(make_job([10])[0])
    assert [soon.core_count, later.core_count] == [1, 2]


def test_costs_are_learned_from_runs_on_one_core():
    scheduler = learned(workers=2, most_cores=lambda _model: 8)
    [batch] = scheduler.start(make_job([10])[0])
    assert batch.core_count == 2
    scheduler.finish(batch)
    assert scheduler.statistics().costs["m"].run_count == 8
    scheduler.submit(make_job([10, 10])[0])
    scheduler.finish(take(scheduler))
    assert scheduler.statistics().costs["m"].run_count == 9


def test_what_was_never_timed_runs_on_one_core():
    scheduler = make_scheduler(workers=2, most_cores=lambda _model: 8)
    assert [batch.core_count for batch in scheduler.start(make_job([10])[0])] == [1]
