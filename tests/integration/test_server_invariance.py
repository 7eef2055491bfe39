"""Batch invariance through a running server: a vector never depends on its company, its order, its RPC or the load."""

import asyncio
import random

import grpc.aio
import pytest

from tests.support.server import running_server_for_tests, tiny_package
from tests.support.wire import embed_options
from whit.contract.vectors import Encoding
from whit.v1 import embedding_pb2, embedding_pb2_grpc, vector_pb2

WORDS = [
    *[
        "the",
        "water",
        "of",
        "land",
        "and",
        "school",
        "by",
        "night",
        "with",
        "father",
        "paper",
        "story",
        "idea",
        "7",
        "light.",
        "hear,",
        "sentence",
    ]
]
ENCODINGS = [1, 2, 3, 4, 5, 6, 7]
CONCURRENCY = 32


def texts(count):
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.choice((1, 2, 5, 9, 20, 40)))) for _ in range(count)]


def row_bytes(batches, row):
    """The bytes of one row in every encoding, scale included."""
    found = []
    for batch in batches:
        parts = (batch.data, batch.scales)
        sizes = [len(part) // batch.count for part in parts]
        found.append(b"".join(part[row * size : (row + 1) * size] for part, size in zip(parts, sizes, strict=True)))
    return tuple(found)


async def by_call(stub, batch):
    options = embed_options(encodings=ENCODINGS)
    answer = await stub.Embed(embedding_pb2.EmbedRequest(options=options, texts=batch))
    return [row_bytes(answer.vectors, row) for row in range(len(batch))]


async def by_stream(stub, batches):
    async def requests():
        yield embedding_pb2.StreamEmbedRequest(config=embed_options(encodings=ENCODINGS))
        for batch in batches:
            items = [embedding_pb2.StreamEmbedItem(text=text) for text in batch]
            yield embedding_pb2.StreamEmbedRequest(batch=embedding_pb2.StreamEmbedBatch(items=items))

    answers = [answer async for answer in stub.StreamEmbed(requests())]
    return [row_bytes(a.vectors, row) for a, batch in zip(answers, batches, strict=True) for row in range(len(batch))]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bytes_are_the_same_alone_in_any_batch_and_under_load(tmp_path, dtype):
    given = texts(120)

    async def run():
        async with (
            running_server_for_tests(tmp_path, models=[tiny_package(dtype=dtype)]) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            alone = {text: (await by_call(stub, [text]))[0] for text in given}
            assert len({b for (b, *_) in alone.values()}) == len(alone)  # the texts do differ
            gate = asyncio.Semaphore(CONCURRENCY)
            draw = random.Random(6)

            async def check(work, order):
                async with gate:
                    for text, found in zip(order, await work, strict=True):
                        assert found == alone[text], text

            checks = []
            for size in (2, 7, 33, len(given)):
                order = draw.sample(given, len(given))
                batches = [order[i : i + size] for i in range(0, len(order), size)]
                checks += [check(by_call(stub, batch), batch) for batch in batches]
                checks.append(check(by_stream(stub, batches), order))
            assert len(checks) > CONCURRENCY
            await asyncio.gather(*checks)

    asyncio.run(run())


def test_the_encodings_are_all_of_them():
    assert set(ENCODINGS) == {number for number in vector_pb2.VectorEncoding.values() if number}
    assert len(ENCODINGS) == len(Encoding)
