"""Both clients' embedding streams against a real server with low limits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from tests.support.clients import KINDS, MODEL, TEXTS, WINDOW, limited_server, open_client, threads, wait_until_gone
from tests.support.server import DIMENSION_COUNT
from whit.client import AsyncClient, Client, InvalidRequest, ItemErrors, NotFound


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with limited_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture(params=KINDS)
def whit(request: pytest.FixtureRequest, address: str) -> Iterator[Client]:
    with open_client(request.param, address) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary", "2bit", "3bit", "4bit"])
def test_a_stream_gives_what_the_call_gives(whit: Client, encoding: str) -> None:
    batches = list(whit.embed_stream(iter(TEXTS), model=MODEL, encoding=encoding, batch_size=7))

    assert [len(batch) for batch in batches] == [7] * 7 + [1]
    whole = whit.embed(TEXTS, model=MODEL, encoding=encoding)
    assert np.concatenate([batch.vectors for batch in batches]).tobytes() == whole.vectors.tobytes()
    assert [item for batch in batches for item in batch.items] == list(whole.items)


def test_batches_of_a_stream_obey_the_limits(whit: Client) -> None:
    by_number = list(whit.embed_stream(TEXTS, model=MODEL, batch_size=1000))
    by_bytes = list(whit.embed_stream(["x" * 40_000] * 5, model=MODEL, on_overflow="truncate"))

    assert [len(batch) for batch in by_number] == [16, 16, 16, 2]
    assert [len(batch) for batch in by_bytes] == [2, 2, 1]


def test_a_stream_of_nothing(whit: Client) -> None:
    assert list(whit.embed_stream([], model=MODEL)) == []


def test_bad_items_do_not_end_a_stream(whit: Client) -> None:
    texts = ["a", "", "b", "x" * 200_000, "\ud800", "c"]

    results = list(whit.embed_stream(texts, model=MODEL, batch_size=2, on_error="return"))

    errors = [item.error for result in results for item in result.items]
    assert [str(error).split(":")[0] if error else None for error in errors] == [
        None, "texts[1]", None, "texts[3]", "texts[4]", None,
    ]  # fmt: skip
    good = np.concatenate([result.vectors for result in results])[[0, 2, 5]]
    assert np.array_equal(good, whit.embed(["a", "b", "c"], model=MODEL).vectors)


def test_a_batch_of_which_nothing_can_be_sent_keeps_its_turn(whit: Client) -> None:
    results = list(whit.embed_stream(["\ud800", "a", "\ud800", "b"], model=MODEL, batch_size=1, on_error="return"))

    assert [result.items[0].error is None for result in results] == [False, True, False, True]
    only_bad = list(whit.embed_stream(["\ud800"], model=MODEL, on_error="return"))
    assert only_bad[0].vectors.shape == (1, DIMENSION_COUNT)


def test_a_stream_raises_failed_items_with_their_batch(whit: Client) -> None:
    results = whit.embed_stream(["a", "b", "c", "", "d"], model=MODEL, batch_size=2)

    assert len(next(results)) == 2
    with pytest.raises(ItemErrors, match=r"1 of 2 items failed; the first is number 3: texts\[3\]: is empty") as caught:
        next(results)
    assert (caught.value.start, list(caught.value.errors)) == (2, [1])
    assert list(results) == []


@pytest.mark.parametrize(
    ("options", "error"), [({"model": "nix"}, NotFound), ({"model": MODEL, "role": "poem"}, InvalidRequest)]
)
def test_a_bad_option_of_a_stream(whit: Client, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        list(whit.embed_stream(TEXTS, **options))


def test_options_of_a_stream_are_checked_before_it_begins(whit: Client) -> None:
    with pytest.raises(ValueError, match="encoding must be"):
        whit.embed_stream(TEXTS, model=MODEL, encoding="int4")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        whit.embed_stream(TEXTS, model=MODEL, batch_size=0)
    with pytest.raises(TypeError, match="texts must be a sequence, got one str"):
        whit.embed_stream("a text", model=MODEL)


def test_token_ids_in_a_stream(whit: Client) -> None:
    from tests.support.tiny import tokenizer

    ids = [tokenizer().encode(text).ids for text in TEXTS[:5]]

    [result] = whit.embed_stream(token_ids=iter(ids), model=MODEL)

    assert np.array_equal(result.vectors, whit.embed(TEXTS[:5], model=MODEL).vectors)


class Source:
    """Texts without end, that counts how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self.taken += 1
            yield f"text {self.taken}"


def test_texts_are_taken_only_as_answers_are_taken(whit: Client) -> None:
    source, size = Source(), 4
    results = whit.embed_stream(source, model=MODEL, batch_size=size)
    assert source.taken == 0

    for answered in range(1, 6):
        next(results)
        assert answered * size <= source.taken <= (answered + WINDOW + 1) * size
    results.close()


def test_closing_a_stream_early_leaves_nothing_behind(whit: Client) -> None:
    whit.info()
    before = threads()
    results = whit.embed_stream(Source(), model=MODEL, batch_size=4)
    next(results)

    results.close()

    assert wait_until_gone(before) == set()
    assert list(results) == []
    assert len(whit.embed(["a"], model=MODEL)) == 1


def test_a_stream_that_ended_leaves_nothing_behind(whit: Client) -> None:
    whit.info()
    before = threads()

    for _ in range(3):
        list(whit.embed_stream(TEXTS, model=MODEL))

    assert wait_until_gone(before) == set()


def test_a_source_that_raises_is_heard_as_it_is(whit: Client) -> None:
    whit.info()
    before, error = threads(), LookupError("the user's own")

    def source() -> Iterator[str]:
        yield from TEXTS[:10]
        raise error

    results = whit.embed_stream(source(), model=MODEL, batch_size=2)

    with pytest.raises(LookupError) as caught:
        list(results)
    assert caught.value is error
    assert wait_until_gone(before) == set()
    assert len(whit.embed(["a"], model=MODEL)) == 1


def test_many_streams_at_a_time(address: str) -> None:
    """One client in four threads: answers go to who asked."""
    with Client(address) as whit:
        expected = whit.embed(TEXTS, model=MODEL, encoding="int8").vectors
        found: list[Any] = [None] * 4

        def work(number: int) -> None:
            batches = whit.embed_stream(TEXTS[number:], model=MODEL, encoding="int8", batch_size=number + 1)
            found[number] = np.concatenate([batch.vectors for batch in batches])

        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)

    for number, vectors in enumerate(found):
        assert np.array_equal(vectors, expected[number:])


def test_async_sources_and_concurrency(address: str) -> None:
    async def source() -> AsyncIterator[str]:
        for text in TEXTS:
            await asyncio.sleep(0)
            yield text

    async def work() -> None:
        async with AsyncClient(address) as whit:
            calls = await asyncio.gather(*(whit.embed([text], model=MODEL, encoding="int8") for text in TEXTS))
            streamed = [batch async for batch in whit.embed_stream(source(), model=MODEL, encoding="int8")]
        streamed_vectors = np.concatenate([batch.vectors for batch in streamed])
        assert np.array_equal(streamed_vectors, np.concatenate([call.vectors for call in calls]))

    asyncio.run(work(), debug=True)


def test_async_streams_end_with_their_task(address: str) -> None:
    source = Source()

    async def work() -> None:
        async with AsyncClient(address) as whit:
            tasks_before = asyncio.all_tasks()
            async with aclosing(whit.embed_stream(source, model=MODEL, batch_size=2)) as results:
                await anext(results)
            begun = asyncio.Event()

            async def endless() -> None:
                async for _ in whit.embed_stream(source, model=MODEL, batch_size=2):
                    begun.set()

            task = asyncio.create_task(endless())
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            for _ in range(1000):  # gRPC's own tasks end a few turns of the loop later
                if asyncio.all_tasks() == tasks_before:
                    break
                await asyncio.sleep(0.01)
            assert asyncio.all_tasks() == tasks_before
            assert len(await whit.embed(["a"], model=MODEL)) == 1

    asyncio.run(work())
