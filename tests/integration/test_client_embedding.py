"""Both clients against a real server with low limits: models, embedding and its streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clients import (
    ITEM_LIMIT,
    KINDS,
    MESSAGE_BYTES,
    MODEL,
    TEXTS,
    WINDOW,
    limited_server,
    open_client,
    threads,
    wait_until_gone,
)
from tests.support.server import DIMENSION_COUNT, MAX_TOKEN_COUNT, server_thread, tiny_package
from whit.client import (
    AsyncClient,
    Client,
    InvalidRequest,
    ItemErrors,
    NotFound,
    Reason,
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with limited_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture(params=KINDS)
def whit(request: pytest.FixtureRequest, address: str) -> Iterator[Client]:
    with open_client(request.param, address) as client:
        yield client


# ---- server and models ----


def test_info_has_the_limits_of_the_server(whit: Client) -> None:
    info = whit.info()

    assert info.limits.batch_item_count == ITEM_LIMIT
    assert info.limits.message_byte_count == MESSAGE_BYTES
    assert [model.name for model in info.models] == ["other", MODEL]
    assert info.worker_count == 2
    assert info.uptime_s > 0


def test_models(whit: Client) -> None:
    listed = whit.models()
    one = whit.model(MODEL)

    assert one in listed
    assert (one.dimension_count, one.max_token_count, one.dtype) == (DIMENSION_COUNT, MAX_TOKEN_COUNT, "float32")
    assert one.prompts == {"query": "find: ", "document": "text: "}
    assert one.verified
    verification = whit.verify_model(MODEL)
    assert verification.verified
    assert verification.max_abs_difference <= verification.tolerance
    with pytest.raises(NotFound, match="'nix' is not loaded") as caught:
        whit.model("nix")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_the_face(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The block that every newcomer sees first, as it stands there, but for the address."""
    texts = ["some", "texts"]
    package = tiny_package("all-MiniLM-L6-v2")
    with server_thread(tmp_path / "data", models=[package]) as address, open_client(kind, address) as whit:
        print(whit.models())  # noqa: T201
        found = whit.embed(["a text", "another"], model="all-MiniLM-L6-v2", encoding="float32")
        assert found.vectors.dtype == np.float32
        assert found.vectors.shape == (2, DIMENSION_COUNT)
        assert (found.items[0].token_count, found.items[0].truncated) == (4, False)
        for batch in whit.embed_stream(texts, model="all-MiniLM-L6-v2", encoding="int8"):
            assert batch.vectors.dtype == np.int8
        whit.create_collection("notes", model="all-MiniLM-L6-v2", storage="int8")
        whit.upsert("notes", ids=["1", "2"], texts=["…", "how to undo"], metadata=[{"lang": "en"}, {}])
        for hit in whit.search("notes", "how do I undo this?", limit=5):
            print(hit.score, hit.id, hit.text, hit.metadata)  # noqa: T201

    out = capsys.readouterr().out
    assert "name='all-MiniLM-L6-v2'" in out
    assert "1 … {'lang': 'en'}" in out


# ---- embed ----


def test_a_call_that_is_split_gives_what_its_texts_give_alone(whit: Client) -> None:
    whole = whit.embed(TEXTS, model=MODEL, encoding=["int8", "float32"])

    assert whole.vectors.shape == (50, DIMENSION_COUNT)
    assert whole.vectors.dtype == np.int8
    for row in (0, 15, 16, 49):
        alone = whit.embed([TEXTS[row]], model=MODEL, encoding=["int8", "float32"])
        assert alone.vectors.tobytes() == whole.vectors[row].tobytes()
        assert whole.scales is not None
        assert alone.scales is not None
        assert alone.scales[0] == whole.scales[row]
        assert alone.items[0] == whole.items[row]
    assert whole.fingerprint == whit.model(MODEL).fingerprint
    assert whole.timing.infer_time_us > 0


def test_every_option_has_an_effect(whit: Client) -> None:
    text = ["where is the water"]
    plain = whit.embed(text, model=MODEL)
    query = whit.embed(text, model=MODEL, role="query")
    instructed = whit.embed(text, model=MODEL, instruction="find: ")
    short = whit.embed(text, model=MODEL, dimension_count=8)

    assert not np.array_equal(plain.vectors, query.vectors)
    assert np.array_equal(query.vectors, instructed.vectors)
    assert query.items[0].token_count > plain.items[0].token_count
    assert short.vectors.shape == (1, 8)
    assert np.linalg.norm(short.vectors) == pytest.approx(1, abs=1e-5)
    cosine = short.vectors @ plain.vectors[:, :8].T / np.linalg.norm(plain.vectors[:, :8])
    assert cosine == pytest.approx(1, abs=1e-5)


def test_texts_that_are_too_long_for_the_model(whit: Client) -> None:
    texts = ["a text", "water " * 100]

    cut = whit.embed(texts, model=MODEL, on_overflow="truncate")

    assert [item.truncated for item in cut.items] == [False, True]
    assert cut.items[1].used_token_count == MAX_TOKEN_COUNT < cut.items[1].token_count
    with pytest.raises(ItemErrors, match=r"1 of 2 items failed; the first is number 1: texts\[1\]: has \d+ tokens"):
        whit.embed(texts, model=MODEL)


def test_token_ids_are_the_same_as_their_text(whit: Client) -> None:
    from tests.support.tiny import tokenizer

    ids = [tokenizer().encode(text).ids for text in TEXTS]

    assert np.array_equal(whit.embed(token_ids=ids, model=MODEL).vectors, whit.embed(TEXTS, model=MODEL).vectors)


def test_bad_items_do_not_hinder_the_others(whit: Client) -> None:
    """Refused by the server (empty, over its limit), by the client (no message holds it, no Unicode): all by item."""
    texts = [*TEXTS[:20], "", "x" * 60_000, "x" * 200_000, "\ud800", *TEXTS[20:]]
    reasons = {20: Reason.EMPTY_TEXT, 21: Reason.TEXT_TOO_LONG, 22: Reason.TEXT_TOO_LONG, 23: Reason.INVALID_REQUEST}

    with pytest.raises(ItemErrors) as caught:
        whit.embed(texts, model=MODEL)

    assert {index: error.reason for index, error in caught.value.errors.items()} == reasons
    for index, error in caught.value.errors.items():
        assert isinstance(error, InvalidRequest)
        assert str(error).startswith(f"texts[{index}]: ")
    good = [row for row in range(len(texts)) if row not in reasons]
    result = whit.embed(texts, model=MODEL, on_error="return")
    assert np.array_equal(result.vectors, caught.value.result.vectors)
    assert np.array_equal(result.vectors[good], whit.embed(TEXTS, model=MODEL).vectors)
    assert not result.vectors[list(reasons)].any()


def test_a_call_of_which_nothing_can_be_sent(whit: Client) -> None:
    result = whit.embed(["\ud800"], model=MODEL, on_error="return", encoding="binary")

    assert result.vectors.shape == (1, DIMENSION_COUNT // 8)
    assert result.items[0].error is not None


def test_no_texts_are_refused(whit: Client) -> None:
    with pytest.raises(InvalidRequest, match="texts: is empty; give 1 to 16"):
        whit.embed([], model=MODEL)


def test_an_unknown_model_or_role_is_refused(whit: Client) -> None:
    with pytest.raises(NotFound, match="loaded: other, tiny"):
        whit.embed(["a"], model="nix")
    with pytest.raises(InvalidRequest, match=r"must be (one of .*|left out), for the package of model 'tiny' has"):
        whit.embed(["a"], model=MODEL, role="poem")
    with pytest.raises(InvalidRequest, match="must be 1 to 32"):
        whit.embed(["a"], model=MODEL, dimension_count=33)


# ---- embed_stream ----


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


# ---- what a stream takes, and what it leaves behind ----


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


# ---- only asyncio ----


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
