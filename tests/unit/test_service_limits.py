"""Places and the byte budget: who is let in, who is refused, who waits, and that nothing is lost on the way."""

import asyncio
from functools import partial

import pytest

from whit.contract.errors import Reason
from whit.server.errors import ServiceError
from whit.server.service.limits import ByteBudget, Places


def refused(take):
    with pytest.raises(ServiceError) as error:
        take()
    problem = error.value.problem
    assert problem.reason is Reason.QUEUE_FULL
    assert problem.retry_after_s > 0
    return problem


def test_places_are_taken_refused_and_given_back():
    places = Places(2, "max_things", "things")
    with places, places:
        assert "2 things are open, the most this server allows (max_things)" in refused(places.__enter__).message
    with pytest.raises(ZeroDivisionError), places:
        _ = 1 / 0
    assert places.count == 0


def test_bytes_are_held_refused_and_given_back():
    budget = ByteBudget(100)
    budget.hold(60)
    assert "inflight_byte_count" in refused(partial(budget.hold, 41)).message
    budget.hold(40)
    assert budget.used_bytes == 100
    budget.release(100)
    assert budget.used_bytes == 0


def test_a_request_over_the_budget_is_let_in_alone():
    budget = ByteBudget(100)
    budget.hold(500)
    refused(partial(budget.hold, 1))
    budget.release(500)
    assert budget.used_bytes == 0


def test_takers_wait_in_order():
    async def run():
        budget, order = ByteBudget(100), []

        async def take(name, size):
            await budget.take(size)
            order.append(name)

        await take("first", 80)
        waiting = [asyncio.create_task(take(name, size)) for name, size in (("big", 60), ("small", 10), ("last", 40))]
        await asyncio.sleep(0)
        assert order == ["first"]  # small fits, but big came before
        budget.release(80)
        await asyncio.gather(*waiting[:2])
        assert order == ["first", "big", "small"]
        budget.release(60)
        await waiting[2]
        assert budget.used_bytes == 50

    asyncio.run(run())


def test_the_room_of_the_first_taker_is_kept_free_of_calls():
    async def run():
        budget = ByteBudget(100)
        await budget.take(60)
        waiting = asyncio.create_task(budget.take(50))
        await asyncio.sleep(0)
        refused(partial(budget.hold, 30))  # it would fit, but for the one that waits
        budget.release(60)
        await waiting
        budget.hold(30)
        assert budget.used_bytes == 80

    asyncio.run(run())


@pytest.mark.parametrize("let_in_first", [False, True])
def test_a_taker_that_is_cancelled_takes_nothing(let_in_first):
    async def run():
        budget = ByteBudget(100)
        await budget.take(60)
        gone = asyncio.create_task(budget.take(90))
        after = asyncio.create_task(budget.take(30))
        await asyncio.sleep(0)
        if let_in_first:
            budget.release(60)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await after
        assert budget.used_bytes == (30 if let_in_first else 90)

    asyncio.run(run())


def test_bytes_that_are_there_already_count_against_those_that_come():
    budget = ByteBudget(100)
    budget.add(150)
    assert "150 bytes" in refused(partial(budget.hold, 1)).message
    budget.release(150)
    budget.hold(100)
    assert budget.used_bytes == 100
