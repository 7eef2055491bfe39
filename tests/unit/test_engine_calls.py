"""The engine as its callers see it, over a fake tokenizer and a fake encoder that tests can hold still."""

import asyncio
import os
import random
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whit.contract.errors import Reason
from whit.contract.manifest import REQUIRED_FILES, Manifest
from whit.server.engine import EmbedSpec, Engine, Flow, Lane, LoadedModel, WorkerDiedError
from whit.server.errors import ServiceError

DIMENSIONS = 8
MAX_TOKENS = 40
HEAD, TAIL = 1, 2  # special tokens
PATIENCE_S = 10  # how long a test waits for what must happen


class FakePackage:
    directory = Path("fake")
    size_bytes = 0

    def __init__(self, *, normalized=False):
        files = dict.fromkeys(REQUIRED_FILES, "sha256:0")
        self.manifest = Manifest(
            "fake", "bert", DIMENSIONS, MAX_TOKENS, 1000, "mean", "float32", files, normalized=normalized
        )


class FakeTokenizer:
    """One token a character."""

    def encode(self, texts):
        return [np.array([HEAD, *(ord(c) % 1000 for c in text), TAIL], np.int64) for text in texts]

    def cut(self, ids, max_token_count):
        return np.concatenate([ids[: max_token_count - 1], ids[-1:]])


class FakeEncoder:
    """Notes what it runs. While ``gate`` is clear, it holds every worker; ``started`` counts those that came in."""

    provider = "FakeExecutionProvider"

    def __init__(self, *, normalized=False):
        self.normalized = normalized
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.error = None

    def attention_length(self, token_count):
        return -(-token_count // 16) * 16

    def run(self, sequences, layer_count=0):
        self.batches.append([ids.tolist() for ids in sequences])
        self.started.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return np.stack([vector_of(ids, normalized=self.normalized) for ids in sequences])

    @property
    def texts_run(self):
        return ["".join(map(chr, ids[1:-1])) for batch in self.batches for ids in batch]


def vector_of(ids, *, normalized=False):
    vector = np.random.default_rng(np.asarray(ids, np.uint64)).standard_normal(DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector) if normalized else vector


def expected_for(text):
    return vector_of(FakeTokenizer().encode([text])[0])


def make_model(model_id="m", *, normalized=False, encoder=None, is_instant=False):
    package, encoder = FakePackage(normalized=normalized), encoder or FakeEncoder(normalized=normalized)
    return LoadedModel(model_id, package, FakeTokenizer(), encoder, True, lambda: None, is_instant)


def make_engine(*models, workers=1, queue=10_000, budget=64):
    return Engine(
        {model.id: model for model in models},
        worker_count=workers,
        queue_token_count=queue,
        micro_batch_token_count=budget,
        text_byte_count=200,
    )


RAW = EmbedSpec(normalize=False)


async def embed(engine, texts, spec=RAW, *, model="m", deadline=None, wait=False):
    return await engine.embed_texts(model, texts, spec, lane=Lane.INTERACTIVE, deadline=deadline, wait=wait)


async def worker_started(model):
    assert await asyncio.to_thread(model.encoder.started.acquire, timeout=PATIENCE_S)


async def until(condition):
    """Lets the loop run until something is so that has no event of its own."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0)


def tokens_waiting(engine, count):
    return lambda: f"{count} tokens waiting" in repr(engine)


def reason_of(caught):
    return caught.value.problem.reason


def test_every_item_gets_its_own_vector_under_random_concurrent_load():
    async def main():
        rng = random.Random(7)
        model, other = make_model(), make_model("other")
        async with make_engine(model, other, workers=3, queue=600) as engine:

            async def call(name, wait):
                texts = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 37))) for _ in range(rng.randint(1, 6))]
                return texts, await embed(engine, texts, model=name, wait=wait)

            calls = [call(rng.choice(["m", "other"]), True) for _ in range(60)]
            for texts, found in await asyncio.gather(*calls):
                assert np.array_equal(found.vectors, np.stack([expected_for(text) for text in texts]))
                assert [item.token_count for item in found.items] == [len(text) + 2 for text in texts]
        for batch in model.encoder.batches + other.encoder.batches:
            assert len({model.encoder.attention_length(len(ids)) for ids in batch}) == 1
            assert sum(map(len, batch)) <= 64 or len(batch) == 1

    asyncio.run(main())


def test_two_workers_run_one_call_side_by_side():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model, workers=2, budget=512) as engine:
            call = asyncio.create_task(embed(engine, ["0123456789"] * 50))
            await worker_started(model)
            await worker_started(model)  # the gate is still shut: two workers are inside at once
            model.encoder.gate.set()
            await call

    asyncio.run(main())


def test_calls_that_wait_share_micro_batches_and_timing_adds_up():
    async def main():
        model = make_model()
        model.encoder.gate.clear()
        async with make_engine(model) as engine:
            first = asyncio.create_task(embed(engine, ["first"]))
            await worker_started(model)
            rest = [asyncio.create_task(embed(engine, [text])) for text in ("aa", "bb", "cc")]
            await until(tokens_waiting(engine, 12))
            model.encoder.gate.set()
            found = await asyncio.gather(first, *rest)
        assert [len(batch) for batch in model.encoder.batches] == [1, 3]
        assert all(answer.timing.infer_time_us > 0 and answer.timing.tokenize_time_us > 0 for answer in found)
        assert found[1].timing.queue_time_us > 0

    asyncio.run(main())


def test_bad_items_get_problems_of_their_own():
    texts = ["good", "", "x" * 201, "é" * 101, "y" * 39, "\ud800", " ", "nul\0"]

    async def main():
        async with make_engine(make_model()) as engine:
            return await embed(engine, texts)

    found = asyncio.run(main())
    reasons = [item.problem and item.problem.reason for item in found.items]
    long = Reason.TEXT_TOO_LONG
    assert reasons == [None, Reason.EMPTY_TEXT, long, long, long, Reason.INVALID_REQUEST, None, None]
    for i, item in enumerate(found.items):
        if item.problem is None:
            assert np.array_equal(found.vectors[i], expected_for(texts[i]))
        else:
            assert not found.vectors[i].any()
            assert [violation.field for violation in item.problem.violations] == [f"texts[{i}]"]
    assert found.items[4].token_count == 41
    for part in ("41 tokens", "at most 40", "shorten", "on_overflow=TRUNCATE"):
        assert part in found.items[4].problem.message


def test_truncation_is_done_only_when_asked_for_and_reported():
    async def main():
        async with make_engine(make_model()) as engine:
            return await embed(engine, ["a" * 60, "short"], EmbedSpec(normalize=False, truncate=True))

    found = asyncio.run(main())
    item = found.items[0]
    assert (item.token_count, item.used_token_count, item.truncated, item.problem) == (62, 40, True, None)
    assert np.array_equal(found.vectors[0], expected_for("a" * 38))
    assert not found.items[1].truncated


def test_the_prompt_is_read_as_part_of_the_text():
    async def main():
        async with make_engine(make_model()) as engine:
            return await embed(engine, ["text"], EmbedSpec(prompt="query: ", normalize=False))

    found = asyncio.run(main())
    assert np.array_equal(found.vectors[0], expected_for("query: text"))
    assert found.items[0].token_count == 13


def test_token_ids_are_checked_against_the_vocabulary():
    sequences = [[1, 5, 2], [], [1, 1000, 2], [-1], [1, 999, 2], [3] * 41, [2**70]]

    async def main():
        async with make_engine(make_model()) as engine:
            return await engine.embed_token_ids("m", sequences, RAW, lane=Lane.BULK, deadline=None, wait=True)

    found = asyncio.run(main())
    invalid = Reason.INVALID_REQUEST
    reasons = [item.problem and item.problem.reason for item in found.items]
    assert reasons == [None, Reason.EMPTY_TEXT, invalid, invalid, None, Reason.TEXT_TOO_LONG, invalid]
    assert np.array_equal(found.vectors[4], vector_of([1, 999, 2]))
    assert "token_ids[2]: token ids must be 0 to 999, got 1000" in found.items[2].problem.message


def test_a_call_with_no_good_item_costs_no_inference():
    async def main():
        model = make_model()
        async with make_engine(model) as engine:
            found = await embed(engine, ["", ""])
        assert found.vectors.shape == (2, DIMENSIONS)
        assert model.encoder.batches == []

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 3000])  # small: on the loop; large: in a reader thread
def test_dimensions_and_length_are_as_asked(count):
    async def main():
        async with make_engine(make_model(), queue=1_000_000, budget=10_000) as engine:
            texts = ["ab"] * count
            cut = await embed(engine, texts, EmbedSpec(dimension_count=5))
            unit = await embed(engine, texts, EmbedSpec())
            raw = await embed(engine, texts, EmbedSpec(dimension_count=5, normalize=False))
        return cut.vectors, unit.vectors, raw.vectors

    cut, unit, raw = asyncio.run(main())
    full = expected_for("ab")
    assert np.array_equal(raw, np.stack([full[:5]] * count))
    np.testing.assert_allclose(unit[0], full / np.linalg.norm(full), rtol=1e-6)
    np.testing.assert_allclose(cut[0], full[:5] / np.linalg.norm(full[:5]), rtol=1e-6)
    assert np.array_equal(cut, np.stack([cut[0]] * count))


def test_a_normalised_graph_is_left_alone_and_cannot_be_undone():
    async def main():
        async with make_engine(make_model(normalized=True)) as engine:
            found = await embed(engine, ["ab"], EmbedSpec(dimension_count=DIMENSIONS))
            assert np.array_equal(found.vectors[0], vector_of(FakeTokenizer().encode(["ab"])[0], normalized=True))
            with pytest.raises(ServiceError, match="normalize: the graph") as caught:
                await embed(engine, ["ab"], RAW)
        assert reason_of(caught) is Reason.INVALID_REQUEST

    asyncio.run(main())


@pytest.mark.parametrize(
    "spec", [EmbedSpec(dimension_count=0), EmbedSpec(dimension_count=9), EmbedSpec(prompt="\ud800")]
)
def test_options_that_cannot_be_met_refuse_the_call(spec):
    async def main():
        async with make_engine(make_model()) as engine:
            with pytest.raises(ServiceError) as caught:
                await embed(engine, ["ab"], spec)
        assert reason_of(caught) is Reason.INVALID_REQUEST

    asyncio.run(main())


def test_a_prompt_cannot_go_with_token_ids():
    async def main():
        async with make_engine(make_model()) as engine:
            with pytest.raises(ServiceError, match="before token ids"):
                await engine.embed_token_ids(
                    "m", [[1]], EmbedSpec(prompt="p"), lane=Lane.BULK, deadline=None, wait=False
                )

    asyncio.run(main())


def test_an_unknown_model_is_refused_with_the_loaded_ones_named():
    async def main():
        async with make_engine(make_model("b"), make_model("a")) as engine:
            with pytest.raises(ServiceError, match="loaded: a, b") as caught:
                await embed(engine, ["x"], model="c")
        assert reason_of(caught) is Reason.MODEL_NOT_FOUND

    asyncio.run(main())


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


@pytest.mark.parametrize("name", ["worker_count", "queue_token_count", "micro_batch_token_count", "text_byte_count"])
def test_settings_must_be_positive(name):
    settings = dict.fromkeys(["worker_count", "queue_token_count", "micro_batch_token_count", "text_byte_count"], 1)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Engine({}, **(settings | {name: 0}))


class HoldsLongTexts(FakeEncoder):
    """Lets short texts through whatever the gate."""

    def run(self, sequences, layer_count=0):
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
            def run(self, sequences, layer_count=0):
                threads.append(threading.current_thread() is threading.main_thread())
                return super().run(sequences, layer_count)

        model = make_model(encoder=Encoder(), is_instant=True)
        async with make_engine(model) as engine:
            found = await embed(engine, ["a", "b" * 30])
            assert np.array_equal(found.vectors, np.stack([expected_for("a"), expected_for("b" * 30)]))
            assert threads == [True, True]  # one micro-batch an attention length
            statistics = engine.statistics()
            assert (statistics.micro_batch_count, statistics.token_count) == (2, 35)
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
        def run(self, sequences, layer_count=0):
            found[len(sequences[0])] = os.getpriority(os.PRIO_PROCESS, 0)  # of the thread that calls
            return super().run(sequences, layer_count)

    async def main():
        model = make_model(encoder=Encoder())
        async with make_engine(model) as engine:
            await embed(engine, ["a"])
            await engine.embed_texts("m", ["abc"], RAW, lane=Lane.BULK, deadline=None, wait=True)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    asyncio.run(main())
    assert found == {3: min(19, before + 3), 5: min(19, before + 5)}
