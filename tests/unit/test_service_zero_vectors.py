"""Texts whose vectors are zero, as a static package gives for words without values: each fails alone, under its own name."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.fake_engine import FakeEncoder, make_engine, make_model
from whit.contract.errors import Reason, from_status
from whit.contract.vectors import Encoding
from whit.server.config import build_config
from whit.server.engine.types import Flow
from whit.server.index import CollectionStore
from whit.server.service.backend import Backend
from whit.server.service.points import PointService
from whit.server.service.rpc import Call
from whit.server.service.storage import Storage
from whit.v1 import point_pb2

WORDLESS = "?"
CALL = Call(None, Flow())


class Encoder(FakeEncoder):
    """A text with WORDLESS in it has the zero vector."""

    def run(self, sequences, layer_count=0, core_count=1):
        vectors = super().run(sequences, layer_count)
        vectors[[ord(WORDLESS) in ids for ids in sequences]] = 0
        return vectors


@pytest.fixture
def serve(tmp_path):
    """Runs a coroutine with a service that has the collection ``c``, and in it the points ``a`` and ``b``."""

    async def main(scenario):
        model = make_model(encoder=Encoder())
        with CollectionStore(tmp_path, background=False) as store, ThreadPoolExecutor(1) as threads:
            fields = {"model_id": "m", "fingerprint": model.fingerprint, "dimension_count": 8}
            store.create("c", **fields, storage=Encoding.FLOAT32)
            config = build_config({"models": ["m"], "data": str(tmp_path), "batch_item_count": 2000}, {})
            async with make_engine(model) as engine:
                storage = Storage(store, reader_count=1)
                service = PointService(Backend(config, engine, storage, 1, threads))
                await upsert(service, "a", "b")
                await scenario(service)
                storage.close()

    return lambda scenario: asyncio.run(main(scenario))


async def upsert(service, *texts):
    points = [point_pb2.Point(id=text or "empty", text=text) for text in texts]
    return await service.upsert(point_pb2.UpsertRequest(collection="collections/c", points=points), CALL)


async def search(service, *texts):
    options = point_pb2.SearchOptions(collection="collections/c", limit=1)
    return (await service.search(point_pb2.SearchRequest(options=options, texts=texts), CALL)).results


def is_about(status, field):
    problem = from_status(status)
    assert problem.reason is Reason.INVALID_VECTOR
    assert [v.field for v in problem.violations] == [field]
    assert problem.message.startswith(f"{field}: gives a vector that has length 0; it must be finite, not zero")
    assert problem.message.endswith("; send other text")
    return True


def test_the_other_points_are_written(serve):
    async def scenario(service):
        written = await upsert(service, "one", WORDLESS, "", "two")
        count = await service.count(point_pb2.CountRequest(collection="collections/c"), CALL)

        assert [result.id for result in written.results if not result.HasField("status")] == ["one", "two"]
        assert is_about(written.results[1].status, "points[1].text")
        assert from_status(written.results[2].status).reason is Reason.EMPTY_TEXT
        assert count.count == 4

    serve(scenario)


def test_a_batch_without_a_good_point_is_answered_too(serve):
    async def scenario(service):
        written = await upsert(service, WORDLESS)

        assert is_about(written.results[0].status, "points[0].text")

    serve(scenario)


def test_the_other_queries_are_answered(serve):
    async def scenario(service):
        found = await search(service, "a", WORDLESS, "", "b")

        assert [hit.id for result in found for hit in result.hits] == ["a", "b"]
        assert is_about(found[1].status, "texts[1]")
        assert from_status(found[2].status).reason is Reason.EMPTY_TEXT

    serve(scenario)


def test_a_large_batch_is_checked_in_a_thread_and_to_the_same_end(serve):
    async def scenario(service):
        texts = [f"{row}{WORDLESS if row % 100 == 7 else ''}" for row in range(1100)]
        written = await upsert(service, *texts)

        bad = np.flatnonzero([result.HasField("status") for result in written.results]).tolist()
        assert bad == list(range(7, 1100, 100))
        assert all(is_about(written.results[row].status, f"points[{row}].text") for row in bad)

    serve(scenario)
