"""What idle workers are good for: large jobs are shared between them, a lone sequence gets their cores."""

import pytest

from tests.support.scheduling import Clock, idle_workers, lend, make_job, make_scheduler, take


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


@pytest.mark.parametrize("sizes", [[64], [1] * 64])
def test_a_worker_takes_its_share_of_what_waits_and_leaves_the_others_theirs(sizes):
    """Of one call or of many: if it took all, the next one to be free would idle beside it. Nothing is split below 64 tokens."""
    scheduler = make_scheduler(workers=2, budget=512)
    for size in sizes:
        scheduler.submit(make_job([10] * size)[0])
    assert [len(take(scheduler).entries) for _ in range(5)] == [32, 16, 8, 6, 2]


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
    clock = Clock()
    scheduler = learned(workers=3, clock=clock, most_cores=lambda _model: 8)
    loan = lend(scheduler, 10, is_instant=True)
    assert loan.core_count == 3
    scheduler.give_back(loan, clock.now)
    assert lend(scheduler, 10, 30, is_instant=True).core_count == 1


@pytest.mark.parametrize(("run_s", "cores"), [(0.4e-3, 1), (0.6e-3, 2)])
def test_what_is_done_at_once_is_not_worth_another_thread(run_s, cores):
    assert lend(learned(run_s=run_s, workers=2, most_cores=lambda _model: 8), 10, is_instant=True).core_count == cores


def test_where_calls_have_met_lately_each_gets_a_core():
    clock = Clock()
    scheduler = learned(workers=2, clock=clock, most_cores=lambda _model: 8)
    first, second = lend(scheduler, 10, is_instant=True), lend(scheduler, 10, is_instant=True)
    assert [first.core_count, second.core_count] == [2, 1]
    scheduler.give_back(first, clock.now)
    scheduler.give_back(second, clock.now)
    clock.now += 0.05
    soon = lend(scheduler, 10, is_instant=True)
    scheduler.give_back(soon, clock.now)
    clock.now += 0.1
    assert [soon.core_count, lend(scheduler, 10, is_instant=True).core_count] == [1, 2]


def test_costs_are_learned_from_runs_on_one_core():
    clock = Clock()
    scheduler = learned(workers=2, clock=clock, most_cores=lambda _model: 8)
    loan = lend(scheduler, 10, is_instant=True)
    assert loan.core_count == 2
    scheduler.give_back(loan, clock.now)
    assert scheduler.statistics().costs["m"].run_count == 8
    scheduler.submit(make_job([10, 10])[0])
    scheduler.finish(take(scheduler))
    assert scheduler.statistics().costs["m"].run_count == 9


def test_what_was_never_timed_runs_on_one_core():
    assert lend(make_scheduler(workers=2, most_cores=lambda _model: 8), 10, is_instant=True).core_count == 1
