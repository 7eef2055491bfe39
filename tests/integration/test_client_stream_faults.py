"""Streams of both clients against a server that misbehaves as a script says, and that are closed early."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import KINDS, open_client
from tests.support.scripted import FULL, GONE, WINDOW, Script, answers, fails, scripted_server
from whit.client import AsyncClient, Cancelled, Client, DeadlineExceeded, FailedPrecondition, InternalError, Unavailable


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.released.set()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    with scripted_server(script) as address:
        yield address


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def whit(kind: str, address: str) -> Iterator[Client]:
    with open_client(kind, address, timeout=30, metadata={"X-Key": "k"}) as client:
        yield client


TEXTS = ["a" * n for n in range(1, 8)]


def lengths(results: Any) -> list[float]:
    return [row[0] for result in results for row in result.vectors]


def test_a_stream_that_cannot_begin_is_begun_again(whit: Client, script: Script) -> None:
    """Before the config was read, and after batches were: what was taken from the source is not lost."""

    def fail_later(requests: Iterator[Any], context: Any) -> Any:
        next(requests)
        next(requests)
        fails(GONE)(context)

    script.streams = [fails(FULL), fail_later, answers]

    assert lengths(whit.embed_stream(iter(TEXTS), model="m", batch_size=2)) == list(range(1, 8))
    assert len(script.calls) == 3


def test_a_stream_that_was_answered_is_not_begun_again(whit: Client, script: Script) -> None:
    def break_off(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from answers(requests, context, count=2)
        fails(GONE)(context)

    script.streams = [break_off, answers]
    results = whit.embed_stream(TEXTS, model="m", batch_size=2)
    assert lengths([next(results), next(results)]) == [1, 2, 3, 4]

    with pytest.raises(Unavailable, match="shutting down; the stream broke after its first 4 items were answered"):
        next(results)
    assert len(script.calls) == 1
    assert "whit-client-stream" not in {thread.name for thread in threading.enumerate()}


def test_a_stream_that_the_server_ends_too_early(whit: Client, script: Script) -> None:
    script.streams = [lambda requests, context: answers(requests, context, count=1)]

    with pytest.raises(
        InternalError, match="ended the stream with batches unanswered; the stream broke after its first 2"
    ):
        list(whit.embed_stream(TEXTS, model="m", batch_size=2))


def test_a_stream_that_stalls(whit: Client, script: Script) -> None:
    def stall(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from answers(requests, context, count=1)
        script.released.wait(30)

    script.streams = [stall]
    results = whit.embed_stream(TEXTS, model="m", batch_size=2, timeout=1)
    next(results)

    with pytest.raises(DeadlineExceeded, match=r"StreamEmbed at .* was not done within timeout=1 s"):
        next(results)
    assert "whit-client-stream" not in {thread.name for thread in threading.enumerate()}


def test_the_timeout_of_a_stream_is_not_of_its_whole(whit: Client, script: Script) -> None:
    """Neither a slow user nor a slow source uses it up, nor many answers together."""

    def source() -> Iterator[str]:
        for text in TEXTS:
            time.sleep(0.1)
            yield text

    script.streams = [answers]
    found = []
    for result in whit.embed_stream(source(), model="m", batch_size=1, timeout=1):
        time.sleep(0.1)
        found += lengths([result])

    assert found == list(range(1, 8))


def test_a_batch_that_fails_whole_does_not_end_the_stream(whit: Client, script: Script) -> None:
    script.streams = [lambda requests, context: answers(requests, context, bad=1)] * 2

    results = list(whit.embed_stream(TEXTS, model="m", batch_size=2, on_error="return"))

    assert lengths(results) == [1, 2, 0, 0, 5, 6, 7]
    errors = [item.error for result in results for item in result.items]
    assert [str(error) if error else "" for error in errors] == ["", "", *["texts[3]: bad batch"] * 2, "", "", ""]
    with pytest.raises(FailedPrecondition, match=r"texts\[3\]: bad batch"):
        list(whit.embed_stream(TEXTS, model="m", batch_size=2))


def test_no_more_than_the_window_is_on_its_way(whit: Client, script: Script) -> None:
    taken: list[str] = []

    def source() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            yield text

    def stall(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        script.released.wait(30)
        yield from answers(requests, context)

    script.streams = [stall]
    results = whit.embed_stream(source(), model="m", batch_size=1, timeout=0.2)

    with pytest.raises(DeadlineExceeded):
        next(results)
    assert len(taken) == WINDOW + 1


def test_an_answer_that_came_is_handed_over_before_more_is_taken(address: str, script: Script) -> None:
    """A source that comes slowly holds back the answers to what came before by one batch, not by a window of them."""
    sent = threading.Semaphore(0)

    def tell(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for answer in answers(requests, context):
            yield answer
            sent.release()

    def source() -> Iterator[str]:
        for number, text in enumerate(TEXTS[:4]):
            if number:
                assert sent.acquire(timeout=30)
                time.sleep(0.2)  # for the answer to come from the socket to the client
            answered.append(len(seen))
            yield text

    script.streams = [tell]
    answered: list[int] = []
    seen: list[Any] = []
    with Client(address) as whit:
        seen.extend(whit.embed_stream(source(), model="m", batch_size=1))

    assert answered == [0, 0, 1, 2]


def test_closing_a_stream_early_cancels_it_at_the_server(whit: Client, script: Script) -> None:
    """So that the server stops working for it, rather than finding out when it has answered everything."""
    is_cancelled = threading.Event()
    outcome: list[bool] = []

    def wait_for_the_end(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(is_cancelled.set)
        yield from answers(requests, context, count=1)
        outcome.append(is_cancelled.wait(20))

    script.streams = [wait_for_the_end]
    results = whit.embed_stream(TEXTS, model="m", batch_size=2)
    next(results)
    start = time.monotonic()

    results.close()

    assert time.monotonic() - start < 10
    assert is_cancelled.wait(10)
    assert outcome in ([], [True])


def test_closing_a_client_ends_its_stream(address: str, script: Script) -> None:
    def stall(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from answers(requests, context, count=1)
        script.released.wait(30)

    script.streams = [stall]
    whit = Client(address)
    results = whit.embed_stream(TEXTS, model="m", batch_size=2)
    next(results)
    closer = threading.Timer(0.1, whit.close)
    closer.start()

    with pytest.raises(Cancelled, match="was cancelled"):
        next(results)
    closer.join()
    with pytest.raises(RuntimeError, match="this client is closed; make a new one"):
        whit.models()
    whit.close()


def test_closing_an_async_client_ends_its_stream(address: str, script: Script) -> None:
    def stall(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from answers(requests, context, count=1)
        script.released.wait(30)

    script.streams = [stall]

    async def work() -> None:
        whit = AsyncClient(address)
        results = whit.embed_stream(TEXTS, model="m", batch_size=2)
        await anext(results)
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)
        await whit.aclose()
        with pytest.raises(Cancelled, match="was cancelled"):
            await waiting
        with pytest.raises(RuntimeError, match="this client is closed; make a new one"):
            await whit.models()
        await whit.aclose()

    asyncio.run(work())


def test_a_client_that_was_never_used_can_be_closed(kind: str) -> None:
    with open_client(kind, "127.0.0.1:1") as whit:
        assert "127.0.0.1:1" in repr(whit)
