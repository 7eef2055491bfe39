"""The cost model alone, and what the scheduler refuses, sheds and counts by it."""

import random

import pytest

from tests.support.scheduling import Clock, has_work, make_job, make_scheduler, rows, take
from whit.contract.errors import Problem, Reason
from whit.server.engine.costs import CostModel
from whit.server.engine.types import Flow, Lane


def learned(costs, *, count=200, noise=0.0, seed=3):
    """A model that has seen runs of a machine with these true costs: run, token, cell."""
    rng, model = random.Random(seed), CostModel()
    for _ in range(count):
        length, sequences = 16 * rng.randint(1, 16), rng.randint(1, 8)
        tokens, cells = length * sequences, length * length * sequences
        model.add(tokens, cells, (costs[0] + costs[1] * tokens + costs[2] * cells) * (1 + noise * rng.uniform(-1, 1)))
    return model


def test_nothing_is_known_before_the_first_micro_batch():
    model = CostModel()
    assert model.costs is None
    assert model.token_s() is None
    assert model.wait_s(1000, 1) == 1.0


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_finds_the_costs_of_runs_tokens_and_cells(noise):
    true = (1e-3, 50e-6, 0.1e-6)
    found = learned(true, noise=noise).costs
    for tokens, length in ((16, 16), (512, 16), (256, 256), (512, 128)):
        cells = tokens * length
        expected = true[0] + true[1] * tokens + true[2] * cells
        assert found.seconds(tokens, cells) == pytest.approx(expected, rel=0.03 if noise == 0 else 0.12)
    budget = found.tokens_within(0.010, 64)
    assert found.seconds(budget, budget * 64) <= 0.010 < found.seconds(budget + 1, (budget + 1) * 64)


def test_no_cost_is_negative_and_micro_batches_that_are_all_alike_do_not_confuse_it():
    model = CostModel()
    for _ in range(50):
        model.add(512, 512 * 16, 0.02)
    costs = model.costs
    assert min(costs.run_s, costs.token_s, costs.cell_s) >= 0
    assert costs.seconds(512, 512 * 16) == pytest.approx(0.02, rel=0.01)
    assert 0.001 < costs.seconds(128, 128 * 16) < 0.02
    falling = CostModel()
    for tokens in (100, 200, 300, 400):
        falling.add(tokens, 0, 0.04 - 0.00005 * tokens)
    assert min(falling.costs.run_s, falling.costs.token_s, falling.costs.cell_s) >= 0


def test_follows_a_machine_that_slows_down_and_forgets_a_standstill():
    model = learned((0.0, 50e-6, 0.0))
    for _ in range(200):
        model.add(100, 1600, 0.010)
    assert model.costs.seconds(100, 1600) == pytest.approx(0.010, rel=0.05)
    model.add(100, 1600, 60.0)  # the machine was suspended
    assert model.costs.seconds(100, 1600) < 0.020
    assert model.token_s() < 200e-6


def test_says_how_many_runs_it_rests_on_and_how_far_it_was_off():
    model = CostModel()
    model.add(100, 1600, 0.010)
    assert (model.costs.run_count, model.costs.relative_error) == (1, None)
    for _ in range(300):
        model.add(100, 1600, 0.010)
    exact = model.costs
    assert exact.run_count == 301
    assert exact.relative_error == pytest.approx(0, abs=1e-3), "checked now and then, even if nobody asks"
    for number in range(400):
        model.add(100, 1600, 0.008 if number % 2 else 0.012)
        assert model.costs is not None
    assert model.costs.relative_error == pytest.approx(0.2, rel=0.15)
    model.add(100, 1600, 600.0)  # a standstill is no error of the prediction
    assert model.costs.relative_error < 0.35


def test_no_time_at_all_is_a_cost_too():
    model = CostModel()
    model.add(10, 160, 0.0)
    assert model.costs.seconds(10, 160) == 0.0
    assert model.costs.tokens_within(1.0, 16) == 0


def trained_scheduler(*, workers=1, **options):
    """A scheduler that has learned that a token costs a millisecond."""
    clock = Clock()
    scheduler = make_scheduler(workers=workers, clock=clock, **options)
    for _ in range(5):
        scheduler.submit(make_job([100])[0])
        batch = take(scheduler)
        clock.now += 0.1
        scheduler.finish(batch)
    return scheduler, clock


def test_a_call_that_cannot_meet_its_deadline_is_refused_before_it_runs():
    scheduler, clock = trained_scheduler(budget=100)
    assert scheduler.submit(make_job([100] * 4)[0]) is None
    fits, _ = make_job([100], deadline=clock.now + 0.25)  # 100 tokens of the other call go first: turns are fair
    assert scheduler.submit(fits) is None
    late, calls = make_job([100], deadline=clock.now + 0.32)  # 0.30 s are predicted, and a fifth more is allowed for
    refusal = scheduler.submit(late)
    assert refusal is not None
    assert refusal.reason is Reason.DEADLINE_EXCEEDED
    assert "may take 0.36 s from now but its deadline is in 0.32 s" in refusal.message
    assert calls == []
    assert scheduler.waiting_tokens("m") == 500
    assert scheduler.statistics().deadline_token_count == 100


def test_more_workers_meet_a_deadline_sooner():
    scheduler, clock = trained_scheduler(workers=2, budget=100)
    scheduler.submit(make_job([100] * 4)[0])
    assert scheduler.submit(make_job([100] * 4, deadline=clock.now + 0.50)[0]) is None
    assert scheduler.submit(make_job([100] * 4, deadline=clock.now + 0.50)[0]) is not None


def test_what_is_left_of_a_call_is_dropped_once_its_deadline_cannot_be_met():
    scheduler, clock = trained_scheduler(budget=100)
    scheduler.submit(make_job([200])[0])
    late, calls = make_job([100] * 3, deadline=clock.now + 0.62)
    assert scheduler.submit(late) is None
    assert rows(take(scheduler))[0][0] is not late
    first = take(scheduler)
    assert rows(first) == [(late, 0)]
    scheduler.submit(make_job([300])[0])
    clock.now += 0.45
    scheduler.finish(first)
    assert rows(take(scheduler))[0][0] is not late
    assert late.problem is not None
    assert late.problem.reason is Reason.DEADLINE_EXCEEDED
    assert len(calls) == 1
    assert scheduler.statistics().deadline_token_count == 200


def test_a_call_is_not_begun_that_would_be_late_were_all_a_fifth_slower():
    scheduler, clock = trained_scheduler(budget=100)
    scheduler.submit(make_job([100])[0])
    brink, calls = make_job([100], deadline=clock.now + 0.25)
    assert scheduler.submit(brink) is None
    scheduler.submit(make_job([100])[0])
    first = take(scheduler)
    clock.now += 0.14  # instead of 0.10: 0.11 s are left for 0.10
    scheduler.finish(first)
    assert rows(take(scheduler))[0][0] is not brink
    assert brink.problem is not None
    assert brink.problem.reason is Reason.DEADLINE_EXCEEDED
    assert len(calls) == 1


def test_the_company_in_its_micro_batch_counts_against_a_deadline():
    scheduler, clock = trained_scheduler(budget=400)
    scheduler.submit(make_job([100] * 4)[0])
    brink, _ = make_job([16], deadline=clock.now + 0.35)
    refusal = scheduler.submit(brink)
    assert refusal is not None
    assert refusal.reason is Reason.DEADLINE_EXCEEDED
    assert scheduler.submit(make_job([16], deadline=clock.now + 1.00)[0]) is None


def test_a_call_is_tried_whatever_is_predicted_if_nothing_else_waits():
    scheduler, clock = trained_scheduler()
    job, _ = make_job([100], deadline=clock.now + 0.01)
    assert scheduler.submit(job) is None
    assert rows(take(scheduler)) == [(job, 0)], "or a wrong prediction would never be put right"


def test_counts_what_was_done_saved_and_refused():
    scheduler, clock = trained_scheduler(queue=300)
    before = scheduler.statistics()
    assert before.micro_batch_count == 5
    assert before.token_count == 500
    assert before.run_s == pytest.approx(0.5)
    assert before.lanes[Lane.INTERACTIVE].job_count == 5
    gone, _ = make_job([50, 60])
    scheduler.submit(gone)
    late, _ = make_job([70], deadline=clock.now + 5)
    scheduler.submit(late)
    scheduler.submit(make_job([80], lane=Lane.BULK, flow=Flow())[0])
    assert scheduler.submit(make_job([80])[0]) is not None
    during = scheduler.statistics()
    assert during.lanes[Lane.INTERACTIVE].waiting_token_count == 180
    assert during.lanes[Lane.INTERACTIVE].waiting_job_count == 2
    assert during.lanes[Lane.BULK].waiting_token_count == 80
    scheduler.discard(gone)
    clock.now += 6
    scheduler.discard(late)  # by the deadline of the call itself
    while has_work(scheduler):
        scheduler.finish(take(scheduler), Problem(Reason.INTERNAL, "broke"))
    after = scheduler.statistics()
    assert after.cancelled_token_count == 110
    assert after.deadline_token_count == 70
    assert after.refused_job_count == 1
    assert after.lanes[Lane.BULK].token_count == 80
    assert after.lanes[Lane.BULK].wait_s == pytest.approx(6)
    assert after.lanes[Lane.INTERACTIVE].waiting_job_count == 0
    assert set(after.costs) == {"m"}
    assert after.costs["m"].run_count == 5, "a failed micro-batch says nothing about costs"
    assert after.fields()["deadline_tokens"] == 70
    assert before.micro_batch_count == 5, "a copy"
