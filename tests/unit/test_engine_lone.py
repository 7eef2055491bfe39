"""Work that its caller runs in its own thread: when the scheduler lends it cores, and what is learned from it."""

import pytest

from tests.support.scheduling import Clock, idle_workers, lend, make_job, make_scheduler, measured
from whit.server.engine.jobs import ALL_LAYERS
from whit.server.engine.lone import Size
from whit.server.engine.types import Lane


def test_short_work_is_the_callers_to_run_while_all_workers_wait_and_nothing_has_just_ended():
    clock = Clock()
    scheduler = make_scheduler(clock=clock)
    measured(scheduler, clock, run_s=0, cell_s=1e-6)
    clock.now += 1
    assert lend(scheduler, 10) is None  # no worker waits
    with idle_workers(scheduler, 1) as taken:
        assert lend(scheduler, 50) is None  # 64 * 64 cells, 4 ms
        loan = lend(scheduler, 10)
        clock.now += 1e-3
        scheduler.give_back(loan, clock.now)
        assert lend(scheduler, 10) is None
        clock.now += 2e-3
        scheduler.give_back(lend(scheduler, 10), clock.now)
        clock.now += 2e-3
        scheduler.submit(make_job([50])[0])
        while not taken:
            pass
        assert lend(scheduler, 10) is None


@pytest.mark.parametrize(("most_cores", "is_lent"), [(1, False), (2, True)])
def test_work_for_all_cores_together_is_short_where_they_make_it_so(most_cores, is_lent):
    clock = Clock()
    scheduler = make_scheduler(clock=clock, workers=2, most_cores=lambda _model: most_cores)
    for _ in range(2):
        measured(scheduler, clock, run_s=3e-3, cell_s=0)
    clock.now += 1
    with idle_workers(scheduler, 2):
        loan = lend(scheduler, 10)
    assert (loan is not None) == is_lent
    assert loan is None or loan.core_count == 2


def test_what_is_done_in_an_instant_is_the_callers_to_run_until_the_scheduler_stops():
    scheduler = make_scheduler()
    loan = lend(scheduler, 16, is_instant=True)  # no worker waits, and what it costs is not known
    scheduler.give_back(loan, loan.start_time + 0.5)
    found = scheduler.statistics()
    assert (found.micro_batch_count, found.token_count, found.run_s) == (1, 16, 0.5)
    assert (found.lanes[Lane.INTERACTIVE].job_count, found.costs["m"].run_count) == (1, 1)
    scheduler.stop()
    assert lend(scheduler, 16, is_instant=True) is None


def test_no_work_is_lent_that_the_token_budget_has_no_room_for_but_a_sequence_alone():
    scheduler = make_scheduler(budget=64)
    assert lend(scheduler, 33, 32, is_instant=True) is None
    assert lend(scheduler, 65, is_instant=True)


def test_of_lent_work_that_fails_or_runs_in_pieces_no_costs_are_learned():
    clock = Clock()
    scheduler = make_scheduler(clock=clock)
    scheduler.give_back(lend(scheduler, 16, is_instant=True), clock.now + 1, failed=True)
    pieces = Size(2, 26, 16**2 + 32**2, 2)
    loan = scheduler.lend("m", Lane.INTERACTIVE, ALL_LAYERS, pieces, is_instant=True)
    scheduler.give_back(loan, clock.now + 1)
    assert scheduler.statistics().token_count == 16 + 26
    assert not scheduler.statistics().costs
