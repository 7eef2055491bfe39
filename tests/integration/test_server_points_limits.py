"""Points where the server has to stop: at the size of a message, at a full disk, at a collection of another package."""

import asyncio

import grpc

from tests.support.server import rows, running_server_for_tests, server_thread, tiny_package
from tests.support.wire import connected, item_problem, point, refused, vector_batch
from whit.contract.errors import Reason
from whit.v1 import point_pb2


def test_a_response_over_the_message_limit_is_refused_not_cut(tmp_path):
    limits = {"message_byte_count": 70_000, "text_byte_count": 30_000, "metadata_byte_count": 100}
    with server_thread(tmp_path, **limits) as address, connected(address) as wire:
        name = wire.new_collection()
        for i in range(4):
            vectors = vector_batch(rows(1, seed=i))
            wire.upsert(name, [point(str(i), "x" * 30_000)], vectors=vectors)
        for call in (
            lambda: wire.get(name, *"0123"),
            lambda: wire.search(name, vectors=vector_batch(rows(1))),
            lambda: wire.embed(*["a"] * 1000),
        ):
            problem = refused(call)
            assert problem.reason is Reason.INVALID_REQUEST
            assert "message_byte_count" in problem.message
        assert len(wire.get(name, "0", "1").points) == 2


def test_an_upsert_whose_answer_would_be_too_large_writes_nothing(tmp_path):
    limits = {"message_byte_count": 70_000, "text_byte_count": 1_000, "metadata_byte_count": 100}
    with server_thread(tmp_path, **limits) as address, connected(address) as wire:
        name = wire.new_collection()
        duplicates = [point("same", "x")] * 600  # a status each, longer than the point
        problem = refused(lambda: wire.upsert(name, [*duplicates, point("good", "x")]))
        assert problem.reason is Reason.INVALID_REQUEST
        assert "message_byte_count" in problem.message
        assert wire.count(name) == 0


def test_a_full_disk_is_told_and_nothing_of_the_batch_is_written(tmp_path):
    async def run():
        async with running_server_for_tests(tmp_path) as server:
            return await asyncio.to_thread(fill, server)

    def fill(server):
        with connected(server.address) as wire:
            name = wire.new_collection()
            wire.upsert(name, [point("a", "one")])
            # SQLite's own bound stands for the disk's: it takes the same path.
            writer = server.storage.store.open(name.removeprefix("collections/"))._database._writer
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            writer.execute(f"PRAGMA max_page_count = {pages + 2}")
            many = [point(str(i), "text " * 10, x="y" * 500) for i in range(200)]
            problem = refused(lambda: wire.upsert(name, many))
            assert problem.reason is Reason.STORAGE_FULL
            assert problem.status_code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert problem.retry_after_s is None
            assert wire.count(name) == 1
            assert wire.search(name, "one").results[0].hits[0].id == "a"
            requests = [
                point_pb2.StreamUpsertRequest(config=point_pb2.StreamUpsertConfig(collection=name)),
                point_pb2.StreamUpsertRequest(batch=point_pb2.StreamUpsertBatch(points=many)),
            ]
            (answer,) = wire.points.StreamUpsert(iter(requests))
            assert item_problem(answer).reason is Reason.STORAGE_FULL
            assert not answer.results

    asyncio.run(run())


def test_a_collection_of_another_package_is_refused_for_texts_but_not_for_vectors(tmp_path):
    with server_thread(tmp_path, models=[tiny_package(seed=0)]) as address, connected(address) as wire:
        name = wire.new_collection()
        wire.upsert(name, [point("a", "one")])
        vectors = wire.get(name, "a", with_vectors=True).vectors
    with server_thread(tmp_path, models=[tiny_package(seed=1)]) as address, connected(address) as wire:
        for call in (
            lambda: wire.upsert(name, [point("b", "two")]),
            lambda: wire.search(name, "one"),
            lambda: wire.upsert(name, [point("b", "two")], role="document"),
        ):
            problem = refused(call)
            assert problem.reason is Reason.FINGERPRINT_MISMATCH
            assert problem.status_code is grpc.StatusCode.FAILED_PRECONDITION
            assert "tiny" in problem.message
        assert wire.search(name, vectors=vectors).results[0].hits[0].id == "a"
    # The same package under another name is the same model.
    with server_thread(tmp_path, models=[tiny_package("renamed")]) as address, connected(address) as wire:
        assert wire.search(name, "one").results[0].hits[0].id == "a"
