"""Verifications asked for by several callers, some of whom do not wait for them: one at a time, and shared."""

import asyncio
import gc

import pytest

from tests.support.fake_engine import make_engine, make_model, until
from whit.runtime.verify import Verification
from whit.server.service.models import ModelService
from whit.v1 import model_pb2

FOUND = Verification(verified=True, text_count=3, max_abs_difference=0.0, min_cosine=1.0, tolerance=0.5)


class Backend:
    """Holds all work until ``gate`` is set; work that has begun ends for nobody's sake earlier, as in a thread."""

    def __init__(self, *ids):
        self.engine = make_engine(*map(make_model, ids))
        self.gate = asyncio.Event()
        self.begun = 0
        self.ended = 0
        self.error = None

    async def run(self, is_long, work):
        assert is_long
        self.begun += 1
        await self.gate.wait()
        self.ended += 1
        if self.error is not None:
            raise self.error
        return FOUND


def asked(service, model_id="m"):
    return asyncio.create_task(service.verify_model(model_pb2.VerifyModelRequest(name=f"models/{model_id}"), None))


async def give_up(call):
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_work_that_was_begun_for_someone_who_left_serves_the_next():
    async def main():
        backend = Backend("m")
        service = ModelService(backend)

        for _ in range(3):
            call = asked(service)
            await until(lambda: backend.begun)
            await give_up(call)
        calls = asked(service), asked(service)
        await until(lambda: backend.begun)
        backend.gate.set()

        for found in await asyncio.gather(*calls):
            assert (found.verified, found.text_count, found.tolerance) == (True, 3, 0.5)
        assert (backend.begun, backend.ended) == (1, 1)

    asyncio.run(main())


def test_a_call_after_the_end_is_computed_anew():
    async def main():
        backend = Backend("m")
        service = ModelService(backend)
        backend.gate.set()

        await asked(service)
        backend.error = RuntimeError("the table was cut")
        with pytest.raises(RuntimeError, match="the table was cut"):
            await asked(service)
        backend.error = None
        assert (await asked(service)).verified

        assert backend.ended == 3

    asyncio.run(main())


def test_models_take_turns_even_where_nobody_waits_for_the_first():
    async def main():
        backend = Backend("m", "n")
        service = ModelService(backend)
        first = asked(service)
        await until(lambda: backend.begun)
        await give_up(first)

        second = asked(service, "n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert backend.begun == 1
        backend.gate.set()

        assert (await second).verified
        assert backend.ended == 2

    asyncio.run(main())


def test_a_failure_that_nobody_waits_for_is_nobodys_defect():
    async def main():
        unhandled = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        backend = Backend("m")
        backend.error = RuntimeError("the table was cut")
        service = ModelService(backend)
        call = asked(service)
        await until(lambda: backend.begun)
        await give_up(call)

        backend.gate.set()
        await until(lambda: backend.ended and not service._verifying)
        await asyncio.sleep(0)
        del call
        gc.collect()

        assert unhandled == []

    asyncio.run(main())
