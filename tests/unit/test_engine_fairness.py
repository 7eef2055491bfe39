"""Turns: who leads the next micro-batch, in two lanes and among calls, and that nobody waits for ever."""

import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scheduling import Clock, has_work, make_job, make_scheduler, rows, take
from whit.server.engine.fairness import WEIGHTS, Line
from whit.server.engine.types import Flow, Lane


def run(scheduler, clock, batch, *, seconds=0.01):
    clock.now += seconds
    scheduler.finish(batch)
    return batch


def test_a_call_with_two_texts_does_not_wait_for_one_with_a_thousand():
    scheduler = make_scheduler(queue=100_000)
    large, _ = make_job([16] * 1000)
    scheduler.submit(large)
    take(scheduler)  # the large one is being served
    small, _ = make_job([16, 40])
    scheduler.submit(small)
    first, second = take(scheduler), take(scheduler)
    assert rows(first)[0] == (small, 0)
    assert len(first.entries) == 32, "what the small call leaves of the budget goes to others of that length"
    assert rows(second) == [(small, 1)]


def test_small_calls_fill_a_micro_batch_before_a_large_one_does():
    scheduler = make_scheduler(queue=100_000, budget=64)
    large, _ = make_job([16] * 100)
    scheduler.submit(large)
    take(scheduler)
    small = [make_job([16])[0] for _ in range(6)]
    for job in small:
        scheduler.submit(job)
    assert rows(take(scheduler)) == [(job, 0) for job in small[:4]]
    assert [job for job, _ in rows(take(scheduler))] == [*small[4:], large, large]


def test_calls_of_one_size_end_one_after_the_other_however_many_come():
    scheduler = make_scheduler(queue=100_000, budget=48)
    jobs = [make_job([16] * 20 + [32] * 5)[0] for _ in range(6)]
    ended = []
    for job in jobs:
        scheduler.submit(job)
        take(scheduler)
        ended += [other for other in jobs if not other.groups and other not in ended]
    while len(ended) < len(jobs):
        take(scheduler)
        ended += [other for other in jobs if not other.groups and other not in ended]
        assert sum(len(job.groups) > 0 and job.waiting_tokens < 480 for job in jobs) <= 2  # the leader and its company
    assert ended == jobs


def test_a_large_call_is_not_starved_by_small_ones_that_keep_coming():
    scheduler = make_scheduler(queue=100_000, budget=32)
    large, _ = make_job([17] * 20)  # an attention length of its own, so that nobody takes it along
    scheduler.submit(large)
    for _ in range(10):
        scheduler.submit(make_job([16])[0])
    served = 0
    for _ in range(400):
        batch = take(scheduler)
        for job, _waiting in batch.entries:
            if job is large:
                served += 1
            else:
                scheduler.submit(make_job([16])[0])  # as many small ones as ever
        if served == 20:
            break
    assert served == 20


def test_an_interactive_call_goes_before_all_bulk_work():
    scheduler = make_scheduler(queue=100_000)
    flow = Flow()
    for _ in range(8):
        scheduler.submit(make_job([16] * 64, lane=Lane.BULK, flow=flow)[0])
    for _ in range(5):
        take(scheduler)
        query, _ = make_job([20])
        scheduler.submit(query)
        batch = take(scheduler)
        assert rows(batch)[0] == (query, 0)
        assert batch.lane is Lane.INTERACTIVE


def test_bulk_keeps_its_share_under_endless_interactive_work():
    scheduler = make_scheduler(queue=1_000_000, budget=64)
    scheduler.submit(make_job([30] * 2000, lane=Lane.BULK)[0])
    served = Counter()
    for _ in range(400):
        for _ in range(8):
            scheduler.submit(make_job([16])[0])
        batch = take(scheduler)
        served[batch.lane] += batch.token_count
    share = WEIGHTS[Lane.BULK] / sum(WEIGHTS.values())
    assert abs(served[Lane.BULK] / served.total() - share) < 0.02


def test_a_lane_that_was_idle_has_saved_up_nothing():
    scheduler = make_scheduler(queue=100_000, budget=64)
    scheduler.submit(make_job([64] * 200)[0])
    for _ in range(100):  # bulk is idle for 6,400 tokens
        take(scheduler)
    scheduler.submit(make_job([64] * 100, lane=Lane.BULK)[0])
    lanes = Counter(take(scheduler).lane for _ in range(40))
    assert 10 <= lanes[Lane.BULK] <= 11


def test_bulk_runs_in_small_micro_batches_while_interactive_calls_come():
    clock = Clock()
    scheduler = make_scheduler(queue=1_000_000, clock=clock)
    scheduler.submit(make_job([16] * 10_000, lane=Lane.BULK)[0])
    token_s, run_s = 200e-6, 0.1e-3

    def step():
        batch = take(scheduler)
        return run(scheduler, clock, batch, seconds=run_s + token_s * batch.token_count)

    assert [step().token_count for _ in range(3)] == [512] * 3
    scheduler.submit(make_job([16])[0])
    step()
    small = [step().token_count for _ in range(20)]
    assert max(small) * token_s <= 0.02
    assert min(small) >= 64
    clock.now += 2.0
    assert step().token_count == 512


def test_the_fixed_cost_of_a_run_is_at_most_a_tenth_of_a_small_micro_batch():
    clock = Clock()
    scheduler = make_scheduler(queue=1_000_000, clock=clock)
    scheduler.submit(make_job([16] * 10_000, lane=Lane.BULK)[0])
    for _ in range(60):
        scheduler.submit(make_job([16])[0])
        batch = take(scheduler)
        run(scheduler, clock, batch, seconds=4e-3 + 100e-6 * batch.token_count)
    scheduler.submit(make_job([16])[0])
    take(scheduler)
    tokens = take(scheduler).token_count
    assert 0.8 * 0.036 / 100e-6 <= tokens <= 1.2 * 0.036 / 100e-6


def test_bulk_takes_interactive_work_along_but_never_makes_it_longer():
    scheduler = make_scheduler(queue=1_000_000, budget=100)
    bulk, _ = make_job([16] * 10, lane=Lane.BULK)
    scheduler.submit(bulk)
    query, _ = make_job([16])
    scheduler.submit(query)
    assert rows(take(scheduler)) == [(query, 0)]
    for _ in range(30):  # until interactive work has had more than its share
        scheduler.submit(make_job([16])[0])
    shared = 0
    while has_work(scheduler):
        batch = take(scheduler)
        lanes = [job.lane for job, _ in rows(batch)]
        assert lanes[0] is batch.lane
        assert batch.lane is Lane.BULK or Lane.BULK not in lanes
        shared += set(lanes) == set(Lane)
    assert shared > 0


def test_the_express_worker_runs_interactive_work_while_bulk_keeps_all_others_busy():
    scheduler = make_scheduler(queue=1_000_000)
    found = []
    scheduler.submit(make_job([16] * 100, lane=Lane.BULK)[0])
    bulk = take(scheduler)
    express = threading.Thread(target=lambda: found.append(scheduler.take_express()))
    express.start()  # finds bulk only, and waits
    query, _ = make_job([16])
    scheduler.submit(query)
    express.join()
    assert rows(found[0]) == [(query, 0)]
    scheduler.finish(found[0])
    scheduler.finish(bulk)


def test_the_express_worker_adds_nothing_where_no_bulk_runs():
    scheduler = make_scheduler()
    first, second = make_job([16])[0], make_job([40])[0]
    scheduler.submit(first)
    scheduler.submit(second)
    take(scheduler)
    found = []
    express = threading.Thread(target=lambda: found.append(scheduler.take_express()))
    express.start()  # the only worker is busy, but with work that goes first too
    assert rows(take(scheduler)) == [(second, 0)]
    scheduler.stop()
    express.join()
    assert found == [None]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(Lane), st.lists(st.integers(1, 70), min_size=1, max_size=6), st.integers(0, 3)),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.sampled_from(["submit", "take", "discard"]), max_size=60),
)
def test_what_waits_is_counted_right_whatever_comes_and_goes(jobs, steps):
    scheduler = make_scheduler(queue=100_000, budget=64)
    flows = [Flow() for _ in range(4)]
    pending = [make_job(lengths, lane=lane, flow=flows[flow])[0] for lane, lengths, flow in jobs]
    inside = []
    for step in steps:
        if step == "submit" and pending:
            inside.append(pending.pop())
            scheduler.submit(inside[-1])
        elif step == "take" and has_work(scheduler):
            scheduler.finish(take(scheduler))
        elif step == "discard" and inside:
            scheduler.discard(inside.pop())
        waiting = scheduler.statistics().lanes
        assert sum(lane.waiting_token_count for lane in waiting.values()) == scheduler.waiting_tokens("m")
        assert sum(lane.waiting_job_count for lane in waiting.values()) == sum(bool(job.groups) for job in inside)
    while has_work(scheduler):
        scheduler.finish(take(scheduler))
    assert all(job.settled for job in inside)


def test_a_line_keeps_no_more_of_those_who_left_than_of_those_who_wait():
    here = {}
    line = Line(lambda job: here[job])
    jobs = [make_job([1])[0] for _ in range(100)]
    for number, job in enumerate(jobs):
        job.arrival = number
        here[job] = True
        line.add(job)
    for count, job in enumerate(jobs[:-1], start=1):
        here[job] = False
        line.remove(job)
        assert len(line._entries) <= 2 * (100 - count)
    assert line.first() is jobs[-1]
