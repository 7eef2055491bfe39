"""The first promise, on the real model through a running server: a vector does not depend on its batch, order or RPC."""

import asyncio
import random

import numpy as np
import pytest

from tests.support.reference import NAME, mixed_texts, reference_package
from tests.support.server import server_thread
from whit.client import AsyncClient, Client

ENCODINGS = ("float32", "int8", "binary")
TEXTS = mixed_texts(500)
CONCURRENCY = 32

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with server_thread(tmp_path_factory.mktemp("data"), models=[reference_package()]) as address:
        yield address


@pytest.fixture(scope="module")
def alone(address):
    """Each text in a call of its own, one after the other: {text: bytes of each encoding}."""
    with Client(address) as client:
        return {text: rows(client.embed([text], **OPTIONS))[0] for text in TEXTS}


OPTIONS = {"model": NAME, "encoding": ENCODINGS, "on_overflow": "truncate"}


def rows(result):
    """What was received of each text, in every encoding, scales included, as bytes."""
    parts = []
    for vectors in result.by_encoding.values():
        parts.append(vectors.values)
        if vectors.scales is not None:
            parts.append(vectors.scales[:, None])
    return [b"|".join(part[i].tobytes() for part in parts) for i in range(len(result))]


def shuffled_batches(seed):
    """All texts once, in random order, in batches of 1 to 64."""
    random_ = random.Random(seed)
    texts = random_.sample(TEXTS, len(TEXTS))
    while texts:
        size = random_.randint(1, 64)
        yield texts[:size]
        texts = texts[size:]


def differing(found, alone):
    return [text[:40] for text, row in found if row != alone[text]]


def test_texts_differ_enough_to_tell_their_vectors_apart(alone):
    assert len(set(alone.values())) == len(TEXTS)
    assert max(len(text.split()) for text in TEXTS) > 150 > 3 > min(len(text.split()) for text in TEXTS)


@pytest.mark.parametrize("seed", range(2))
def test_shuffled_batches_give_the_same_bytes(address, alone, seed):
    with Client(address) as client:
        found = [
            pair
            for batch in shuffled_batches(seed)
            for pair in zip(batch, rows(client.embed(batch, **OPTIONS)), strict=True)
        ]

    assert differing(found, alone) == []


def test_both_calls_at_once_from_many_callers_give_the_same_bytes(address, alone):
    async def call(client, batches, found):
        for batch in batches:
            found += zip(batch, rows(await client.embed(batch, **OPTIONS)), strict=True)

    async def stream(client, texts, size, found):
        received = []
        async for result in client.embed_stream(texts, batch_size=size, **OPTIONS):
            received += rows(result)
        found += zip(texts, received, strict=True)

    async def run():
        found = []
        async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
            for i in range(CONCURRENCY):
                batches = list(shuffled_batches(100 + i))[:5]
                if i % 2:
                    group.create_task(call(client, batches, found))
                else:
                    group.create_task(stream(client, [text for batch in batches for text in batch], 1 + i, found))
        return found

    found = asyncio.run(run())

    assert {text for text, _ in found} == set(TEXTS)
    assert differing(found, alone) == []


def test_float_package_gives_the_same_bytes_too(tmp_path):
    texts = TEXTS[:100]
    with server_thread(tmp_path, models=[reference_package("float32")]) as address, Client(address) as client:
        options = OPTIONS | {"encoding": "float32"}
        together = client.embed(texts, **options).vectors
        alone = np.concatenate([client.embed([text], **options).vectors for text in texts])

    assert np.array_equal(together, alone)
