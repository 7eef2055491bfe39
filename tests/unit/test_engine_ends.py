"""Calls to the engine that do not end well: cancelled, late, refused, broken or shut down."""

import asyncio
import threading
import time

import pytest

from tests.support.fake_engine import embed, make_engine, make_model, reason_of, tokens_waiting, until, worker_started
from whit.contract.errors import Reason
from whit.server.engine import WorkerDiedError
from whit.server.errors import ServiceError


def test_a_cancelled_call_leaves_nothing_behind():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model, queue=20) as engine:
            running = asyncio.create_task(embed(engine, ["running"]))
            await worker_started(model)
            queued = asyncio.create_task(embed(engine, ["queued"]))
            await until(tokens_waiting(engine, 8))
            parked = asyncio.create_task(embed(engine, ["parked, too long"], wait=True))
            await until(lambda: "3 calls" in repr(engine))
            for call in (queued, parked):
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert "1 calls, 0 tokens waiting" in repr(engine)
            running.cancel()
            model.encoder.gate.set()
            await embed(engine, ["after"])
        assert model.encoder.texts_run == ["running", "after"]

    asyncio.run(main())


def test_a_deadline_that_passes_drops_what_has_not_started():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model) as engine:
            running = asyncio.create_task(embed(engine, ["running"]))
            await worker_started(model)
            for deadline in (time.monotonic() + 0.02, time.monotonic() - 1):
                with pytest.raises(ServiceError) as caught:
                    await embed(engine, ["late"], deadline=deadline)
                assert reason_of(caught) is Reason.DEADLINE_EXCEEDED
            assert "1 calls, 0 tokens waiting" in repr(engine)
            model.encoder.gate.set()
            await running
        assert model.encoder.texts_run == ["running"]

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_or_waits_as_asked():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model, queue=10) as engine:
            calls = [asyncio.create_task(embed(engine, ["running!"]))]
            await worker_started(model)
            calls.append(asyncio.create_task(embed(engine, ["queued!!"])))
            await until(tokens_waiting(engine, 10))
            with pytest.raises(ServiceError, match="10 tokens waiting of at most 10") as caught:
                await embed(engine, ["refused"])
            assert reason_of(caught) is Reason.QUEUE_FULL
            assert caught.value.problem.retry_after_s > 0
            calls += [asyncio.create_task(embed(engine, [f"patient{i}"], wait=True)) for i in range(3)]
            model.encoder.gate.set()
            await asyncio.gather(*calls)
        assert sorted(model.encoder.texts_run[2:]) == ["patient0", "patient1", "patient2"]

    asyncio.run(main())


def test_a_broken_run_fails_its_calls_only_and_the_worker_lives_on(caplog):
    async def main():
        model = make_model()
        async with make_engine(model) as engine:
            model.encoder.error = RuntimeError("out of luck")
            with pytest.raises(ServiceError, match="micro-batch 1; the server's log") as caught:
                await embed(engine, ["x"])
            assert reason_of(caught) is Reason.INTERNAL
            model.encoder.error = None
            await embed(engine, ["y"])

    asyncio.run(main())
    assert "micro-batch 1" in caplog.text
    assert "out of luck" in caplog.text


class Death(BaseException):
    """What no worker survives."""


def test_a_dead_worker_is_reported_and_nothing_hangs(caplog):
    async def main():
        model = make_model()
        async with make_engine(model) as engine:
            watch = asyncio.create_task(engine.watch())
            model.encoder.error = Death()
            model.encoder.gate.clear()
            fatal = asyncio.create_task(embed(engine, ["fatal"]))
            await worker_started(model)
            waiting = asyncio.create_task(embed(engine, ["waiting"]))
            await until(tokens_waiting(engine, 9))
            model.encoder.gate.set()
            for call, reason in ((fatal, Reason.INTERNAL), (waiting, Reason.SHUTTING_DOWN)):
                with pytest.raises(ServiceError) as caught:
                    await call
                assert reason_of(caught) is reason
            with pytest.raises(WorkerDiedError) as died:
                await watch
            assert isinstance(died.value.__cause__, Death)
            with pytest.raises(ServiceError) as caught:
                await embed(engine, ["after"])
            assert reason_of(caught) is Reason.SHUTTING_DOWN

    asyncio.run(main())
    assert "died" in caplog.text


def test_drain_finishes_what_was_taken_and_refuses_the_rest_even_where_the_queue_is_full():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model, queue=10) as engine:
            calls = [asyncio.create_task(embed(engine, ["running!"], wait=True))]
            await worker_started(model)
            calls.append(asyncio.create_task(embed(engine, ["queued!!"], wait=True)))
            await until(tokens_waiting(engine, 10))
            calls.append(asyncio.create_task(embed(engine, ["held back"], wait=True)))
            drain = asyncio.create_task(engine.drain())
            await until(lambda: "draining" in repr(engine))
            with pytest.raises(ServiceError) as caught:
                await embed(engine, ["late"])
            assert reason_of(caught) is Reason.SHUTTING_DOWN
            assert caught.value.problem.retry_after_s > 0
            assert not drain.done()
            model.encoder.gate.set()
            await drain
            assert all(call.done() for call in calls)
            await asyncio.gather(*calls)

    asyncio.run(main())


def test_leaving_the_engine_fails_what_waits_and_joins_every_thread():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model, workers=2) as engine:
            running = []
            for _ in range(2):  # one after the other, or one worker might take both at once
                running.append(asyncio.create_task(embed(engine, ["running"])))
                await worker_started(model)
            waiting = asyncio.create_task(embed(engine, ["waiting"]))
            await until(tokens_waiting(engine, 9))

            async def let_go_once_stopped():
                await until(tokens_waiting(engine, 0))
                model.encoder.gate.set()

            letting_go = asyncio.create_task(let_go_once_stopped())
        await asyncio.gather(*running, letting_go)
        with pytest.raises(ServiceError) as caught:
            await waiting
        assert reason_of(caught) is Reason.SHUTTING_DOWN

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("whit-")]
