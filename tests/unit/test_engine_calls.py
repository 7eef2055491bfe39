"""What a call to the engine gives, over a fake tokenizer and a fake encoder."""

import asyncio
import random

import numpy as np
import pytest

from tests.support.fake_engine import (
    DIMENSIONS,
    RAW,
    embed,
    expected_for,
    ids_of,
    make_engine,
    make_model,
    reason_of,
    tokens_waiting,
    until,
    vector_of,
    worker_started,
)
from whit.contract.errors import Reason
from whit.server.engine import EmbedSpec, Engine, Lane
from whit.server.errors import ServiceError


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
            assert np.array_equal(found.vectors[0], vector_of(ids_of("ab"), normalized=True))
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


@pytest.mark.parametrize("name", ["worker_count", "queue_token_count", "micro_batch_token_count", "text_byte_count"])
def test_settings_must_be_positive(name):
    settings = dict.fromkeys(["worker_count", "queue_token_count", "micro_batch_token_count", "text_byte_count"], 1)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Engine({}, **(settings | {name: 0}))
