"""The streams over a real socket: their grammar, their order, their back-pressure, and clients that vanish."""

import asyncio
import logging
import threading

import grpc
import grpc.aio
import numpy as np
import pytest

from tests.support.server import running_server_for_tests, server_thread
from tests.support.wire import connected, embed_options, item_problem, matrix, point, problem_of, vector_batch
from whit.contract.errors import Reason
from whit.v1 import embedding_pb2, embedding_pb2_grpc, point_pb2, point_pb2_grpc

Embed, Upsert, Search = embedding_pb2.StreamEmbedRequest, point_pb2.StreamUpsertRequest, point_pb2.StreamSearchRequest


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    with server_thread(tmp_path_factory.mktemp("data")) as address, connected(address) as found:
        yield found


def embed_config(**options):
    return Embed(config=embed_options(**options))


def embed_batch(*texts):
    items = [embedding_pb2.StreamEmbedItem(id=f"id-{i}", text=text) for i, text in enumerate(texts)]
    return Embed(batch=embedding_pb2.StreamEmbedBatch(items=items))


def upsert_config(name, **options):
    return Upsert(config=point_pb2.StreamUpsertConfig(collection=name, **options))


def upsert_batch(*points, vectors=None):
    return Upsert(batch=point_pb2.StreamUpsertBatch(points=points, vectors=vectors))


def ended(call):
    """The problem with which a stream ends, and how many responses came before."""
    count = 0
    try:
        for _ in call:
            count += 1
    except grpc.RpcError as error:
        return problem_of(error), count
    raise AssertionError("the stream ended well")


def test_batches_are_answered_in_order_with_their_ids(wire):
    texts = [[f"text {i} {j}" for j in range(i % 5 + 1)] for i in range(40)]
    answers = list(wire.embedding.StreamEmbed(iter([embed_config(), *(embed_batch(*batch) for batch in texts)])))
    assert len(answers) == len(texts)
    for batch, answer in zip(texts, answers, strict=True):
        assert list(answer.ids) == [f"id-{i}" for i in range(len(batch))]
        np.testing.assert_array_equal(matrix(answer.vectors[0]), matrix(wire.embed(*batch).vectors[0]))
        assert answer.model_fingerprint
        assert len(answer.items) == len(batch)


def test_a_batch_may_mix_texts_token_ids_and_bad_items(wire):
    item = embedding_pb2.StreamEmbedItem
    ids = embedding_pb2.TokenIds(ids=[2, 50, 3])
    items = [
        item(id="a", text="one text"),
        item(id="b", token_ids=ids),
        item(id="c"),
        item(id="d", text=""),
        item(id="e", token_ids=embedding_pb2.TokenIds()),
        item(id="f" * 257, text="x"),
        item(text="one text"),
    ]
    request = Embed(batch=embedding_pb2.StreamEmbedBatch(items=items))
    (answer,) = wire.embedding.StreamEmbed(iter([embed_config(), request]))
    assert list(answer.ids) == [i.id for i in items]
    fields = [p.violations[0].field if (p := item_problem(i)) else None for i in answer.items]
    assert fields == [
        None,
        None,
        "batch.items[2]",
        "batch.items[3]",
        "batch.items[4]",
        "batch.items[5].id",
        None,
    ]
    vectors = matrix(answer.vectors[0])
    alone = wire.embedding.Embed(embedding_pb2.EmbedRequest(options=embed_options(), token_ids=[ids]))
    np.testing.assert_array_equal(vectors[[0, 6]], matrix(wire.embed("one text", "one text").vectors[0]))
    np.testing.assert_array_equal(vectors[1:2], matrix(alone.vectors[0]))
    assert not vectors[2:6].any()
    # With a prompt, items of token ids fail alone.
    (answer,) = wire.embedding.StreamEmbed(iter([embed_config(role="query"), request]))
    assert "config.role" in item_problem(answer.items[1]).message
    np.testing.assert_array_equal(
        matrix(answer.vectors[0])[0], matrix(wire.embed("one text", role="query").vectors[0])[0]
    )


def test_a_bad_batch_does_not_end_the_stream(wire):
    requests = [
        embed_config(),
        embed_batch("one"),
        embed_batch(),
        embed_batch(*["x"] * 1025),
        embed_config(),
        Embed(),
        embed_batch("two"),
    ]
    answers = list(wire.embedding.StreamEmbed(iter(requests)))
    fields = [p.violations[0].field if (p := item_problem(a)) else None for a in answers]
    assert fields == [None, "batch.items", "batch.items", "config", "batch", None]
    assert all(not a.ids and not a.vectors and not a.items for a in answers[1:5])


def test_a_malformed_message_does_not_end_the_stream(wire):
    call = wire.channel.stream_stream("/whit.v1.EmbeddingService/StreamEmbed")
    good = embed_batch("one").SerializeToString()
    bad = good.replace(b"one", b"\xff\xfe\xfd")
    raw = list(call(iter([embed_config().SerializeToString(), good, bad, good])))
    answers = [embedding_pb2.StreamEmbedResponse.FromString(data) for data in raw]
    assert [p.reason if (p := item_problem(a)) else None for a in answers] == [None, Reason.MALFORMED_MESSAGE, None]


def test_a_malformed_first_message_ends_the_stream(wire):
    call = wire.channel.stream_stream("/whit.v1.EmbeddingService/StreamEmbed")
    problem, count = ended(call(iter([b"\xff", b""])))
    assert (problem.reason, count) == (Reason.MALFORMED_MESSAGE, 0)


@pytest.mark.parametrize("first", [[], [embed_batch("one")], [Embed()]])
def test_a_stream_must_begin_with_its_config(wire, first):
    problem, count = ended(wire.embedding.StreamEmbed(iter(first)))
    assert (problem.reason, count) == (Reason.INVALID_REQUEST, 0)
    assert problem.status_code is grpc.StatusCode.INVALID_ARGUMENT
    assert problem.violations[0].field == "config"


def test_every_stream_must_begin_with_its_config(wire):
    assert ended(wire.points.StreamUpsert(iter([upsert_batch(point("a", "b"))])))[0].violations[0].field == "config"
    batch = Search(batch=point_pb2.StreamSearchBatch(texts=["a"]))
    assert ended(wire.points.StreamSearch(iter([batch])))[0].violations[0].field == "config"


def test_a_bad_config_ends_the_stream_with_its_paths(wire):
    problem, _ = ended(wire.embedding.StreamEmbed(iter([embed_config(role="poet", encodings=[9])])))
    assert {v.field for v in problem.violations} == {"config.role", "config.encodings[0]"}
    problem, _ = ended(wire.embedding.StreamEmbed(iter([embed_config(model="models/other")])))
    assert problem.reason is Reason.MODEL_NOT_FOUND
    problem, _ = ended(wire.points.StreamUpsert(iter([upsert_config("collections/none")])))
    assert problem.reason is Reason.COLLECTION_NOT_FOUND
    options = point_pb2.SearchOptions(collection="collections/none", limit=-1)
    problem, _ = ended(wire.points.StreamSearch(iter([Search(config=options)])))
    assert problem.violations[0].field == "config.limit"


def test_upserts_are_acknowledged_in_order_and_the_last_one_wins(wire):
    name = wire.new_collection()
    # Long texts first, so that later batches are embedded sooner.
    batches = [upsert_batch(point("same", "word " * (50 - i)), point(str(i), f"text {i}")) for i in range(20)]
    answers = list(wire.points.StreamUpsert(iter([upsert_config(name), *batches])))
    sequences = [a.sequence for a in answers]
    assert sequences == sorted(set(sequences))
    assert [[r.id for r in a.results] for a in answers] == [["same", str(i)] for i in range(20)]
    assert wire.count(name) == 21
    assert wire.get(name, "same").points[0].text == "word " * 31


def test_a_stream_of_upserts_goes_on_after_bad_batches_and_points(wire):
    name = wire.new_collection()
    requests = [
        upsert_config(name),
        upsert_batch(point("a", "one"), point("", "two")),
        upsert_batch(),
        upsert_batch(point("b", "x"), vectors=vector_batch(np.ones((1, 3)))),
        upsert_batch(point("c", "x"), vectors=vector_batch(np.ones((1, 32)))),
    ]
    answers = list(wire.points.StreamUpsert(iter(requests)))
    assert item_problem(answers[0].results[1]).violations[0].field == "batch.points[1].id"
    assert item_problem(answers[1]).violations[0].field == "batch.points"
    assert item_problem(answers[2]).violations[0].field == "batch.vectors.dimension_count"
    assert [r.id for r in answers[3].results] == ["c"]
    assert wire.count(name) == 2


def test_searches_are_answered_in_order(wire):
    name = wire.new_collection()
    wire.upsert(name, [point(word, word) for word in ("water", "school", "father", "night")])
    options = point_pb2.SearchOptions(collection=name, limit=1, role="document")
    batches = [Search(batch=point_pb2.StreamSearchBatch(texts=[w])) for w in ("night", "water", "", "father")]
    batches.append(Search(batch=point_pb2.StreamSearchBatch(texts=["a"], vectors=vector_batch(np.ones((1, 32))))))
    answers = list(wire.points.StreamSearch(iter([Search(config=options), *batches])))
    assert [a.results[0].hits[0].id for a in (answers[0], answers[1], answers[3])] == ["night", "water", "father"]
    assert item_problem(answers[2].results[0]).violations[0].field == "batch.texts[0]"
    assert item_problem(answers[4]).violations[0].field == "batch.vectors"


def test_a_stream_is_read_no_further_than_its_window(wire, tmp_path):
    # The responses fill what the connection buffers, since the client reads none; then the server must stop reading.
    taken = 0
    hold = threading.Event()

    def requests():
        nonlocal taken
        yield embed_config()
        for _ in range(2000):
            taken += 1
            items = [embedding_pb2.StreamEmbedItem(id=f"{i:0250}", text="x") for i in range(1000)]
            yield Embed(batch=embedding_pb2.StreamEmbedBatch(items=items))
        hold.wait()

    with server_thread(tmp_path, stream_window_count=2) as address, connected(address) as wire:
        call = wire.embedding.StreamEmbed(requests())
        next(call)
        before = -1
        while taken != before:  # until the client can push no more
            before = taken
            wire.embed("x")
            hold.wait(0.3)
        assert taken < 200
        held_back = taken
        for _ in range(2 * held_back):  # once its answers are read, it goes on
            next(call)
        assert taken > held_back
        hold.set()
        call.cancel()


async def vanish_after_one_answer(address, make_call, requests):
    """A client that hangs up in the middle of a stream, connection and all."""
    channel = grpc.aio.insecure_channel(address)
    call = make_call(channel)()
    for request in requests:
        await call.write(request)
    await call.read()
    await channel.close()


def test_a_client_that_vanishes_leaves_nothing_behind(tmp_path, caplog):
    async def run():
        async with running_server_for_tests(tmp_path, stream_window_count=4) as server:
            name = await asyncio.to_thread(make_collection, server.address)
            before = {t for t in asyncio.all_tasks() if t is not asyncio.current_task()}
            big = [embed_batch(*["some words of text " * 10] * 200) for _ in range(6)]
            many = [upsert_batch(*(point(f"{b}-{i}", "text " * 20) for i in range(200))) for b in range(6)]
            for _ in range(3):
                await vanish_after_one_answer(
                    server.address,
                    lambda channel: embedding_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed,
                    [embed_config(), *big],
                )
                await vanish_after_one_answer(
                    server.address,
                    lambda channel: point_pb2_grpc.PointServiceStub(channel).StreamUpsert,
                    [upsert_config(name), *many],
                )
            await asyncio.wait_for(server.dispatcher.idle(), 10)
            # What is left belongs to gRPC and to this test; a task of a stream would be left for ever.
            names = [t.get_coro().__qualname__ for t in asyncio.all_tasks() - before if t is not asyncio.current_task()]
            assert not [n for n in names if "Batches" in n or "answer" in n], names
            assert server.dispatcher.active_count == 0
            assert server.dispatcher.held_byte_count == 0
            async with grpc.aio.insecure_channel(server.address) as channel:
                request = embedding_pb2.EmbedRequest(options=embed_options(), texts=["still served"])
                found = await embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=10)
                assert found.items[0].token_count
                # No vanished client's work is still waiting.
                assert "0 calls, 0 tokens waiting" in repr(server.engine)

    def make_collection(address):
        with connected(address) as wire:
            return wire.new_collection()

    asyncio.run(run())
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
