"""The scheduler alone, driven step by step from one thread: what is taken, in which order, and what never is."""

import threading
import time
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scheduling import BUCKET, Clock, has_work, make_job, make_scheduler, measured, rows, take
from whit.contract.errors import Problem, Reason
from whit.server.engine.types import Flow, Lane


def test_fills_up_across_jobs_in_the_order_of_their_turns_with_one_attention_length():
    scheduler = make_scheduler(budget=40)
    first, _ = make_job([10, 20, 12])
    second, _ = make_job([9, 14])
    assert scheduler.submit(first) is None
    assert scheduler.submit(second) is None
    assert rows(take(scheduler)) == [(first, 0), (first, 2), (second, 0)]  # 31 tokens; 14 more would not fit
    assert rows(take(scheduler)) == [(first, 1)]  # it has had less than a micro-batch, so it keeps its turn
    assert rows(take(scheduler)) == [(second, 1)]
    assert not has_work(scheduler)


def test_a_sequence_longer_than_the_budget_runs_alone():
    scheduler = make_scheduler(budget=20)
    job, _ = make_job([30, 30, 5])
    scheduler.submit(job)
    assert [batch.token_count for batch in (take(scheduler), take(scheduler), take(scheduler))] == [30, 30, 5]


def mixing(*, run_s, cell_s=1e-6, budget=512, unmasked=0):
    clock = Clock()
    scheduler = make_scheduler(budget=budget, clock=clock, mixes=lambda _, length: length != unmasked)
    measured(scheduler, clock, run_s=run_s, cell_s=cell_s)
    return scheduler


def test_other_attention_lengths_come_along_where_padding_costs_less_than_a_run():
    scheduler = mixing(run_s=1e-3)
    jobs = [make_job([length])[0] for length in (10, 20, 12, 40)]
    for job in jobs:
        scheduler.submit(job)
    batch = take(scheduler)
    # 3 texts in a grid of 32: 2 * (1024 - 256) cells, 1.5 ms by cost; so the longer one waits for a run of its own.
    assert rows(batch) == [(jobs[0], 0), (jobs[2], 0)]
    assert batch.attention_length == 16

    scheduler = mixing(run_s=1e-2)
    for job in (jobs := [make_job([length])[0] for length in (10, 20, 12, 40)]):
        scheduler.submit(job)
    batch = take(scheduler)
    assert rows(batch) == [(jobs[0], 0), (jobs[2], 0), (jobs[1], 0), (jobs[3], 0)]  # the nearest length first
    assert (batch.attention_length, batch.cell_count) == (48, 4 * 48**2)
    assert not has_work(scheduler)


def test_lengths_are_not_mixed_where_more_waits_than_fits_nor_without_measurements_nor_without_a_mask():
    for scheduler in (
        mixing(run_s=1.0, budget=40),  # 45 tokens wait
        make_scheduler(mixes=lambda *_: True),
        mixing(run_s=1.0, unmasked=32),
        mixing(run_s=1.0, unmasked=16),
    ):
        for job in (jobs := [make_job([length])[0] for length in (10, 20, 15)]):
            scheduler.submit(job)
        assert rows(take(scheduler)) == [(jobs[0], 0), (jobs[2], 0)]
        assert rows(take(scheduler)) == [(jobs[1], 0)]


def test_models_take_turns_and_never_share_a_micro_batch():
    scheduler = make_scheduler(models=("a", "b"), budget=20)
    jobs = [make_job([10, 10, 10], model=model)[0] for model in ("a", "b", "a")]
    for job in jobs:
        scheduler.submit(job)
    taken = [take(scheduler) for _ in range(5)]
    assert [batch.model_id for batch in taken] == ["a", "a", "b", "b", "a"]
    assert rows(taken[1]) == [(jobs[0], 2), (jobs[2], 0)]


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(
            st.lists(st.integers(1, 80), min_size=1, max_size=8),
            st.booleans(),
            st.sampled_from("ab"),
            st.sampled_from(Lane),
            st.integers(0, 2),
        ),
        max_size=25,
    ),
    steps=st.lists(st.booleans(), max_size=60),
    budget=st.integers(1, 200),
    bound=st.integers(1, 400),
)
def test_every_admitted_sequence_runs_once_and_no_bound_is_passed(jobs, steps, budget, bound):
    scheduler = make_scheduler(models=("a", "b"), queue=bound, budget=budget)
    submitted, taken = [], []
    flows = [Flow() for _ in range(3)]
    pending = deque(jobs)

    def step_take():
        batch = take(scheduler)
        taken.extend(rows(batch))
        assert len({job.model_id for job, _ in batch.entries}) == 1
        assert len({-(-len(waiting.ids) // BUCKET) for _, waiting in batch.entries}) == 1
        assert batch.token_count == sum(len(waiting.ids) for _, waiting in batch.entries)
        assert batch.token_count <= budget or len(batch.entries) == 1
        scheduler.finish(batch)

    for is_submit in steps + [True] * len(jobs):
        if is_submit and pending:
            lengths, patient, model, lane, flow = pending.popleft()
            before = scheduler.waiting_tokens(model)
            job, calls = make_job(lengths, model=model, patient=patient, lane=lane, flow=flows[flow])
            refused = scheduler.submit(job) is not None
            after = scheduler.waiting_tokens(model)
            assert after <= bound or after == before or before == 0
            assert not (refused and patient), "a patient job is parked, not refused"
            if not refused:
                submitted.append((job, calls, len(lengths)))
        elif has_work(scheduler, "ab"):
            step_take()
    while has_work(scheduler, "ab"):
        step_take()
    assert sorted((id(job), row) for job, row in taken) == sorted(
        (id(job), row) for job, _, count in submitted for row in range(count)
    )
    assert all(job.settled and job.problem is None and len(calls) == 1 for job, calls, _ in submitted)


def test_discarded_work_never_runs_and_gives_its_room_back():
    scheduler = make_scheduler(queue=60, budget=20)
    gone, gone_calls = make_job([20, 20, 10])
    stays, _ = make_job([10])
    scheduler.submit(gone)
    scheduler.submit(stays)
    running = take(scheduler)
    scheduler.discard(gone)
    assert scheduler.waiting_tokens("m") == 10
    scheduler.finish(running)
    assert rows(take(scheduler)) == [(stays, 0)]
    assert gone_calls == []


def test_work_past_its_deadline_is_not_started():
    scheduler = make_scheduler()
    late, late_calls = make_job([5, 40], deadline=time.monotonic())
    fine, _ = make_job([5], deadline=time.monotonic() + 60)
    scheduler.submit(late)
    scheduler.submit(fine)
    assert rows(take(scheduler)) == [(fine, 0)]
    assert late.problem is not None
    assert late.problem.reason is Reason.DEADLINE_EXCEEDED
    assert len(late_calls) == 1
    assert not has_work(scheduler)


def measured_scheduler(clock):
    """A scheduler that has seen what runs cost: 1 ms a token."""
    scheduler = make_scheduler(clock=clock, budget=64)
    for length in (16, 32, 64, 48):
        scheduler.submit(make_job([length])[0])
        batch = take(scheduler)
        clock.now += length / 1000
        scheduler.finish(batch)
    return scheduler


def test_a_call_that_has_begun_is_ended_in_a_small_micro_batch_where_a_full_one_would_be_late():
    clock = Clock()
    scheduler = measured_scheduler(clock)
    begun, _ = make_job([16] * 5, deadline=clock.now + 0.13)
    scheduler.submit(begun)
    for _ in range(8):
        scheduler.submit(make_job([16])[0])
    batch = take(scheduler)
    assert [job for job, _ in rows(batch)] == [begun] * 4
    clock.now += 0.1  # slower than predicted: a full micro-batch would now take twice what is left
    scheduler.finish(batch)
    assert rows(take(scheduler))[0] == (begun, 4)
    assert begun.problem is None


def test_a_call_of_another_size_waits_for_as_much_of_each_other_as_it_has_itself():
    clock = Clock()
    scheduler = measured_scheduler(clock)
    for _ in range(3):
        scheduler.submit(make_job([16] * 20)[0])  # 0.96 s of work
    assert scheduler.submit(make_job([16], deadline=clock.now + 0.4)[0]) is None  # after a quantum of each
    refused = scheduler.submit(make_job([16] * 20, deadline=clock.now + 1.2)[0])
    assert refused is not None
    assert refused.reason is Reason.DEADLINE_EXCEEDED
    assert scheduler.submit(make_job([16] * 20, deadline=clock.now + 2)[0]) is None


def test_a_full_queue_refuses_and_says_when_to_come_back():
    scheduler = make_scheduler(queue=100, budget=100)
    scheduler.submit(make_job([50])[0])
    assert scheduler.refusal("m", Lane.INTERACTIVE, None, 1) is None
    scheduler.submit(make_job([50])[0])
    refusal = scheduler.refusal("m", Lane.INTERACTIVE, None, 1)
    assert refusal is not None
    assert refusal == scheduler.submit(make_job([1])[0])
    assert refusal.reason is Reason.QUEUE_FULL
    assert refusal.retry_after_s == 1.0  # nothing measured yet
    assert "100 tokens waiting of at most 100 (queue_token_count)" in refusal.message


def test_retry_after_follows_the_measured_rate():
    clock = Clock()
    scheduler = make_scheduler(workers=2, queue=100, budget=100, clock=clock)
    scheduler.submit(make_job([100])[0])
    batch = take(scheduler)
    clock.now += 1.0  # 100 tokens in a second by each of two workers
    scheduler.finish(batch)
    scheduler.submit(make_job([100])[0])
    refusal = scheduler.submit(make_job([80])[0])
    assert refusal is not None
    assert refusal.retry_after_s == 0.4


def test_a_job_above_the_bound_is_let_in_when_nothing_waits():
    scheduler = make_scheduler(queue=10)
    huge, _ = make_job([30])
    assert scheduler.submit(huge) is None
    assert scheduler.submit(make_job([1])[0]) is not None
    take(scheduler)
    assert scheduler.submit(make_job([1])[0]) is None


def test_the_batches_of_one_stream_are_parked_enter_and_run_in_order():
    scheduler = make_scheduler(queue=100, budget=10)
    flow = Flow()
    jobs = [make_job([10, 10, 10], patient=True, flow=flow)[0] for _ in range(4)]
    assert [scheduler.submit(job) for job in jobs] == [None] * 4
    assert scheduler.waiting_tokens("m") == 30  # half the bound is kept for calls that cannot wait
    order = []
    while has_work(scheduler):
        order += rows(take(scheduler))
        assert scheduler.waiting_tokens("m") <= 50
    assert order == [(job, row) for job in jobs for row in range(3)]


def test_streams_leave_room_for_calls_that_cannot_wait_and_are_not_starved_by_them():
    scheduler = make_scheduler(queue=100, budget=10)
    streams = [make_job([10] * 4, patient=True, lane=Lane.BULK)[0] for _ in range(3)]
    for job in streams:
        scheduler.submit(job)

    def fill():
        accepted = 0
        while scheduler.submit(make_job([10])[0]) is None:
            accepted += 1
        return accepted

    assert fill() == 6
    for _ in range(100):  # calls come in without end, wherever there is room
        take(scheduler)
        fill()
        if streams[2].arrival >= 0:
            break
    assert [job.arrival >= 0 for job in streams] == [True] * 3


def test_a_parked_job_that_is_discarded_leaves_nothing_behind():
    scheduler = make_scheduler(queue=20, budget=10)
    running, _ = make_job([10, 10], patient=True)
    parked, calls = make_job([15], patient=True)
    after, _ = make_job([10], patient=True)
    for job in (running, parked, after):
        scheduler.submit(job)
    scheduler.discard(parked)
    order = []
    while has_work(scheduler):
        order += rows(take(scheduler))
    assert order == [(running, 0), (running, 1), (after, 0)]
    assert calls == []


def test_a_failed_micro_batch_fails_its_jobs_and_drops_the_rest_of_them():
    scheduler = make_scheduler(budget=20)
    broken, broken_calls = make_job([10, 40, 10, 10])
    fine, fine_calls = make_job([10])
    scheduler.submit(broken)
    scheduler.submit(fine)
    scheduler.finish(take(scheduler), Problem(Reason.INTERNAL, "broke"))
    assert broken.problem == Problem(Reason.INTERNAL, "broke")
    assert len(broken_calls) == 1
    batch = take(scheduler)
    assert rows(batch) == [(fine, 0)]
    scheduler.finish(batch)
    assert len(fine_calls) == 1
    assert fine.problem is None


def test_a_job_is_settled_when_its_last_micro_batch_ends_whatever_their_order():
    scheduler = make_scheduler(budget=10)
    job, calls = make_job([10, 10])
    scheduler.submit(job)
    first, second = take(scheduler), take(scheduler)
    scheduler.finish(second)
    assert calls == []
    scheduler.finish(first)
    assert len(calls) == 1


def test_stop_fails_what_waits_parked_jobs_too_and_refuses_more():
    scheduler = make_scheduler(queue=20)
    jobs = [make_job([20], patient=True) for _ in range(3)]
    for job, _ in jobs:
        scheduler.submit(job)
    scheduler.stop()
    assert all(job.problem is not None and job.problem.reason is Reason.SHUTTING_DOWN for job, _ in jobs)
    assert all(len(calls) == 1 for _, calls in jobs)
    assert scheduler.take() is None
    refusal = scheduler.submit(make_job([1])[0])
    assert refusal is not None
    assert refusal.reason is Reason.SHUTTING_DOWN
    assert refusal.retry_after_s is not None


def test_who_is_told_that_a_job_is_done_finds_the_scheduler_free():
    scheduler = make_scheduler()
    job, _ = make_job([5])
    told: list[bool] = []

    def tell():
        other = threading.Thread(target=scheduler.statistics, daemon=True)
        other.start()
        other.join(5)
        told.append(not other.is_alive())

    job.on_done = tell
    scheduler.submit(job)
    scheduler.finish(take(scheduler))
    assert told == [True]
