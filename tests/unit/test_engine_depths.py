"""Work at several depths: never in one micro-batch, and priced by the share of the layers that is run."""

from __future__ import annotations

import pytest

from tests.support.scheduling import Clock, make_job, make_scheduler, rows, take
from whit.contract.errors import Problem, Reason
from whit.server.engine.costs import CostModel
from whit.server.engine.jobs import Depth
from whit.server.engine.types import Lane

THIRD = Depth(2, 2 / 6)


def test_depths_do_not_share_a_micro_batch() -> None:
    scheduler = make_scheduler(mixes=lambda *_: True)
    depths = [Depth(), THIRD, Depth(), THIRD]
    jobs = [make_job([10], depth=depth)[0] for depth in depths]
    for job in jobs:
        scheduler.submit(job)

    first, second = take(scheduler), take(scheduler)

    assert (rows(first), first.layer_count) == ([(jobs[0], 0), (jobs[2], 0)], 0)
    assert (rows(second), second.layer_count) == ([(jobs[1], 0), (jobs[3], 0)], 2)
    assert second.fields(second.start_time)["layers"] == 2


def test_cheap_depths_do_not_make_all_layers_look_cheap() -> None:
    """6 layers take 1 ms, 0.1 ms a token; a third of them a third of it. All runs are mixed up."""
    costs = CostModel()
    for tokens in (8, 16, 32, 64, 128) * 8:
        for share in (1.0, 1 / 3):
            costs.add(tokens, 256 * tokens // 8, share * (1e-3 + 1e-4 * tokens), share)
    found = costs.costs
    assert found is not None

    assert found.seconds(64, 2048) == pytest.approx(7.4e-3, rel=0.02)
    assert found.relative_error == pytest.approx(0, abs=0.02)
    alone = costs.needed_s(64, 2048, 0, 0, 1)
    shallow = costs.needed_s(64, 2048, 0, 0, 1, 1 / 3)
    assert alone is not None
    assert shallow == pytest.approx(alone / 3)
    # What waits ahead is priced as the present mix of depths is.
    assert costs.token_s() == pytest.approx((1 + 1 / 3) / 2 * (5e-3 + 1e-4 * 248) / 248, rel=0.05)


def test_a_deadline_that_only_fewer_layers_can_meet() -> None:
    clock = Clock()
    scheduler = make_scheduler(clock=clock, budget=64)
    for length in (16, 64, 16, 64):
        scheduler.submit(make_job([length])[0])
        batch = take(scheduler)
        clock.now += 1e-3 * batch.token_count
        scheduler.finish(batch)
    scheduler.submit(make_job([16])[0])

    refused = scheduler.submit(make_job([48], deadline=clock.now + 0.045)[0])

    assert isinstance(refused, Problem)
    assert refused.reason is Reason.DEADLINE_EXCEEDED
    assert scheduler.submit(make_job([48], deadline=clock.now + 0.08, depth=THIRD)[0]) is None
    assert isinstance(scheduler.refusal("m", Lane.INTERACTIVE, clock.now + 0.06, 48), Problem)
    assert scheduler.refusal("m", Lane.INTERACTIVE, clock.now + 0.30, 48, THIRD) is None
