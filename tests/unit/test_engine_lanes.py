"""Who is run where: interactive calls, bulk, and models that answer at once."""

import asyncio
import os
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.support.fake_engine import (
    RAW,
    FakeEncoder,
    embed,
    expected_for,
    make_engine,
    make_model,
    reason_of,
    vector_of,
    worker_started,
)
from whit.contract.errors import Reason
from whit.server.engine import Flow, Lane
from whit.server.errors import ServiceError


class HoldsLongTexts(FakeEncoder):
    """Lets short texts through whatever the gate."""

    def run(self, sequences, layer_count=0, core_count=1):
        if len(sequences[0]) > 16:
            return super().run(sequences, layer_count)
        return np.stack([vector_of(ids) for ids in sequences])


def test_an_interactive_call_is_answered_while_bulk_holds_every_worker():
    async def main():
        model = replace(make_model(), encoder=HoldsLongTexts())
        model.encoder.gate.clear()
        async with make_engine(model) as engine:
            bulk = asyncio.create_task(
                engine.embed_texts("m", ["long " * 6] * 3, RAW, lane=Lane.BULK, deadline=None, wait=True, flow=Flow())
            )
            await worker_started(model)
            found = await embed(engine, ["short"])
            assert np.array_equal(found.vectors[0], expected_for("short"))
            assert not bulk.done()
            model.encoder.gate.set()
            await bulk
            done = engine.statistics()
        assert done.token_count == 7 + 3 * 32
        assert done.lanes[Lane.BULK].token_count == 3 * 32
        assert done.lanes[Lane.INTERACTIVE].job_count == 1

    asyncio.run(main())


def test_an_instant_model_runs_short_interactive_calls_on_the_loop_and_all_else_in_workers():
    async def main():
        threads = []

        class Encoder(FakeEncoder):
            def run(self, sequences, layer_count=0, core_count=1):
                threads.append(threading.current_thread() is threading.main_thread())
                return super().run(sequences, layer_count)

        model = make_model(encoder=Encoder(), is_instant=True)
        async with make_engine(model) as engine:
            found = await embed(engine, ["a", "b" * 30])
            assert np.array_equal(found.vectors, np.stack([expected_for("a"), expected_for("b" * 30)]))
            assert threads == [True, True]  # one micro-batch an attention length
            await asyncio.sleep(0)  # what ran here is noted once the answer is on its way
            statistics = engine.statistics()
            assert (statistics.micro_batch_count, statistics.token_count) == (1, 35)
            assert statistics.lanes[Lane.INTERACTIVE].job_count == 1

            await embed(engine, ["c"] * 5)
            await engine.embed_texts("m", ["d"], RAW, lane=Lane.BULK, deadline=None, wait=True)
            assert threads == [True, True, False, False]

            model.encoder.error = RuntimeError("broken")
            with pytest.raises(ServiceError) as caught:
                await embed(engine, ["e"])
            assert reason_of(caught) is Reason.INTERNAL
        with pytest.raises(ServiceError) as caught:
            await embed(engine, ["f"])
        assert reason_of(caught) is Reason.SHUTTING_DOWN

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="a priority of one thread")
def test_workers_give_way_to_the_event_loop_and_bulk_to_interactive_work():
    found = {}

    class Encoder(FakeEncoder):
        def run(self, sequences, layer_count=0, core_count=1):
            found[len(sequences[0])] = os.getpriority(os.PRIO_PROCESS, 0)  # of the thread that calls
            return super().run(sequences, layer_count)

    async def main():
        model = make_model(encoder=Encoder())
        async with make_engine(model) as engine:
            await embed(engine, ["a"])
            await engine.embed_texts("m", ["abc"], RAW, lane=Lane.BULK, deadline=None, wait=True)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    asyncio.run(main())
    assert found == {3: min(19, before + 3), 5: min(19, before + 10)}
