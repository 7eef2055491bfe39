"""Blocks in progress are counted, and whoever waits for none is told when the last ends."""

import asyncio

import pytest

from whit.server.inflight import InFlight


def test_none_waits_for_the_last_block():
    async def run():
        in_flight = InFlight()
        await in_flight.none()  # nothing has begun
        with in_flight:
            waiting = asyncio.create_task(in_flight.none())
            with in_flight:
                assert in_flight.count == 2
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


def test_none_goes_on_waiting_where_a_block_begins_at_once():
    async def run():
        in_flight = InFlight()
        with in_flight:
            waiting = asyncio.create_task(in_flight.none())
            await asyncio.sleep(0)
        with in_flight:
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


def test_who_no_longer_waits_is_passed_over_and_a_block_that_fails_counts_as_ended():
    async def run():
        in_flight = InFlight()
        in_flight.__enter__()
        gone, waiting = (asyncio.create_task(in_flight.none()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError), in_flight:
            _ = 1 / 0
        assert in_flight.count == 1
        in_flight.__exit__(None, None, None)
        await asyncio.wait_for(waiting, 5)
        assert in_flight.count == 0

    asyncio.run(run())
