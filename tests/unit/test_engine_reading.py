"""Texts that take long to read: nobody reads on for a call that has ended, and nobody waits for who still reads."""

import asyncio
import threading
from dataclasses import replace

import pytest

from tests.support.fake_engine import PATIENCE_S, RAW, FakeTokenizer, embed, make_engine, make_model, reason_of, until
from whit.contract.errors import Reason
from whit.server.engine import problems
from whit.server.engine.reading import read_token_ids
from whit.server.errors import ServiceError

SLOW = [f"slow{i}" for i in range(6)]  # more than is read on the loop
QUICK = [f"quick{i}" for i in range(6)]


class SlowTokenizer(FakeTokenizer):
    """Notes what it has read. It holds its thread after ``slow0`` while ``gate`` is clear."""

    def __init__(self):
        self.gate = threading.Event()
        self.started = threading.Event()
        self.texts_read = []
        self.is_let_go = None

    def encode_each(self, texts, check):
        for text, ids in zip(texts, super().encode_each(texts, check), strict=True):
            self.texts_read.append(text)
            if text == "slow0":
                self.started.set()
                self.is_let_go = self.gate.wait(PATIENCE_S)
            yield ids


def make_slow_model():
    return replace(make_model(), tokenizer=SlowTokenizer())


async def start_reading(engine, tokenizer):
    call = asyncio.create_task(embed(engine, SLOW))
    assert await asyncio.to_thread(tokenizer.started.wait, PATIENCE_S)
    return call


async def cancel(call):
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_nothing_more_is_read_for_a_call_that_was_cancelled():
    async def main():
        model = make_slow_model()
        async with make_engine(model) as engine:
            await cancel(await start_reading(engine, model.tokenizer))
            model.tokenizer.gate.set()
            await embed(engine, QUICK)
        assert model.tokenizer.texts_read == ["slow0", *QUICK]
        assert sorted(model.encoder.texts_run) == QUICK

    asyncio.run(main())


def test_leaving_the_engine_does_not_wait_for_the_reader_of_a_call_that_was_cancelled():
    async def main():
        model = make_slow_model()
        async with make_engine(model) as engine:
            await cancel(await start_reading(engine, model.tokenizer))
        assert model.tokenizer.is_let_go is None
        model.tokenizer.gate.set()
        await until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("whit-reader")])
        assert model.tokenizer.texts_read == ["slow0"]

    asyncio.run(main())


def test_a_call_that_is_read_when_the_engine_is_left_is_told():
    async def main():
        model = make_slow_model()
        async with make_engine(model) as engine:
            call = await start_reading(engine, model.tokenizer)

            async def let_go_once_stopped():
                await until(lambda: "draining" in repr(engine))
                model.tokenizer.gate.set()

            letting_go = asyncio.create_task(let_go_once_stopped())
        await letting_go
        with pytest.raises(ServiceError) as caught:
            await call
        assert reason_of(caught) is Reason.SHUTTING_DOWN
        assert model.tokenizer.texts_read == ["slow0"]

    asyncio.run(main())


class LongIds:
    """A million token ids that notes how many are taken at a time; over each of them the interpreter's lock is held."""

    def __init__(self):
        self.taken = []

    def __len__(self):
        return 1_000_000

    def __getitem__(self, part):
        found = [1] * len(range(1_000_000)[part])
        self.taken.append(len(found))
        return found


def test_a_long_item_of_token_ids_is_read_in_parts_and_no_further_once_its_call_has_ended():
    whole, dropped = LongIds(), LongIds()

    def check():
        if dropped.taken:
            raise ServiceError(problems.shutting_down())

    (item,) = read_token_ids(make_model(), [whole], RAW, field="ids").items
    assert "has 1000000 tokens" in item.problem.message
    assert (sum(whole.taken), max(whole.taken)) == (1_000_000, 8192)
    with pytest.raises(ServiceError):
        read_token_ids(make_model(), [dropped], RAW, field="ids", check=check)
    assert len(dropped.taken) == 1
