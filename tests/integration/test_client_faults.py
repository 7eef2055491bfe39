"""Both clients against servers that misbehave in ways the real one cannot be made to: a scripted one, on a real socket."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from tests.support.clients import KINDS, open_client
from tests.support.server import server_thread
from whit.client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    Reason,
    ResourceExhausted,
    RetryPolicy,
    Unavailable,
    Unimplemented,
)
from whit.contract.errors import Problem, to_status
from whit.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
    vector_pb2,
)

WINDOW = 2
GONE = Problem(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_s=0.05)
FULL = Problem(Reason.QUEUE_FULL, "too much is waiting", retry_after_s=0.1)
FULL_FOR_EVER = Problem(Reason.STORAGE_FULL, "no room on disk")


@dataclass
class Script(
    server_pb2_grpc.ServerServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
):
    """What the server does at each call of a method; ``calls`` has the time of each."""

    list_models: list[Callable[[Any], Any]] = field(default_factory=list)
    streams: list[Callable[[Iterator[Any], Any], Iterator[Any]]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def GetServerInfo(self, request: Any, context: Any) -> server_pb2.GetServerInfoResponse:  # noqa: N802
        limits = server_pb2.Limits(
            batch_item_count=1000, text_byte_count=1 << 20, message_byte_count=1 << 22, stream_window_count=WINDOW
        )
        return server_pb2.GetServerInfoResponse(
            limits=limits, models=[model_pb2.Model(name="models/m", dimension_count=4)]
        )

    def ListModels(self, request: Any, context: Any) -> model_pb2.ListModelsResponse:  # noqa: N802
        self.calls.append(time.monotonic())
        self.metadata = dict(context.invocation_metadata())
        return self.list_models.pop(0)(context) or model_pb2.ListModelsResponse()

    Embed = GetModel = VerifyModel = None  # type: ignore[assignment]

    def StreamEmbed(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.calls.append(time.monotonic())
        return self.streams.pop(0)(request_iterator, context)


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.released.set()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server_pb2_grpc.add_ServerServiceServicer_to_server(script, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(script, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    script.released.set()
    server.stop(None).wait()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def whit(kind: str, address: str) -> Iterator[Client]:
    with open_client(kind, address, timeout=30, metadata={"X-Key": "k"}) as client:
        yield client


def fails(problem: Problem) -> Callable[..., Any]:
    """What a method does that refuses every call."""

    def act(*arguments: Any) -> Any:
        arguments[-1].abort_with_status(rpc_status.to_status(to_status(problem)))

    return act


def works(*_: Any) -> None:
    """What a method does that goes well."""


def answers(
    requests: Iterator[Any], _: Any, count: int = 1 << 30, bad: int = -1
) -> Iterator[embedding_pb2.StreamEmbedResponse]:
    """Answers ``count`` batches with vectors of the texts' lengths, but fails the one numbered ``bad``."""
    assert next(requests).config.model == "models/m"
    for number, request in enumerate(requests):
        items = request.batch.items
        if number == bad:
            problem = Problem(Reason.FINGERPRINT_MISMATCH, "batch.items[1]: bad batch")
            yield embedding_pb2.StreamEmbedResponse(status=to_status(problem))
        else:
            data = np.array([[len(item.text)] * 4 for item in items], "<f4").tobytes()
            vectors = vector_pb2.VectorBatch(
                encoding=vector_pb2.VECTOR_ENCODING_FLOAT32, count=len(items), dimension_count=4, data=data
            )
            yield embedding_pb2.StreamEmbedResponse(
                vectors=[vectors], items=[embedding_pb2.EmbedItem(token_count=1)] * len(items)
            )
        if number + 1 == count:
            return


# ---- unary calls ----


def test_a_call_is_tried_again_until_the_server_is_back(whit: Client, script: Script) -> None:
    script.list_models = [fails(GONE), fails(GONE), works]

    assert whit.models() == []
    assert len(script.calls) == 3


def test_the_time_that_the_server_says_is_obeyed(whit: Client, script: Script) -> None:
    script.list_models = [fails(FULL), works]

    assert whit.models() == []
    first, second = script.calls
    assert second - first >= 0.1


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (FULL_FOR_EVER, ResourceExhausted),
        (Problem(Reason.INTERNAL, "a defect"), InternalError),
        (Problem(Reason.MODEL_NOT_FOUND, "no model"), NotFound),
        (Problem(Reason.INVALID_REQUEST, "bad"), InvalidRequest),
    ],
)
def test_nothing_else_is_tried_again(whit: Client, script: Script, problem: Problem, error: type[Exception]) -> None:
    script.list_models = [fails(problem), works]

    with pytest.raises(error, match=problem.message):
        whit.models()
    assert len(script.calls) == 1


def test_retries_end(kind: str, address: str, script: Script) -> None:
    script.list_models = [fails(FULL)] * 9

    with open_client(kind, address, retry=RetryPolicy(attempt_count=2)) as whit, pytest.raises(ResourceExhausted):
        whit.models()
    with open_client(kind, address, timeout=0.09) as whit, pytest.raises(ResourceExhausted):
        whit.models()
    assert len(script.calls) == 3


def test_the_timeout_is_the_servers_deadline(whit: Client, script: Script) -> None:
    remaining: list[float] = []

    def stall(context: Any) -> None:
        remaining.append(context.time_remaining())
        script.released.wait(30)

    script.list_models = [works, stall]
    whit.models()  # connects, which may take its time on a busy machine
    start = time.monotonic()

    with pytest.raises(DeadlineExceeded, match=r"ListModels at .* was not done within timeout=1 s; give a larger") as e:
        whit.models(timeout=1)

    assert isinstance(e.value, TimeoutError)
    assert 0.99 <= time.monotonic() - start < 10
    assert 0 < remaining[0] <= 1.1  # gRPC rounds up what it sends


def test_metadata_travels_with_every_call(whit: Client, script: Script) -> None:
    script.list_models = [works]
    whit.models()

    assert script.metadata["x-key"] == "k"


# ---- streams ----

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


# ---- closing ----


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


# ---- no server, another server ----


@contextmanager
def unused_address() -> Iterator[str]:
    """An address where nobody listens, held until the end so that nobody else takes it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # so that a server of gRPC may still take it
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_no_server_at_all(kind: str) -> None:
    start = time.monotonic()
    with unused_address() as address, open_client(kind, address, timeout=20) as whit:
        for call in (whit.models, lambda: list(whit.embed_stream(["a"], model="m"))):
            with pytest.raises(Unavailable, match=f"no server answered at {address}; start one with: whit serve") as e:
                call()
            assert isinstance(e.value, ConnectionError)
    assert time.monotonic() - start < 15


def test_a_server_that_comes_up_late(kind: str, script: Script) -> None:
    """Within the retries, that is: a client may start a moment before its server."""
    script.list_models = [works]
    with unused_address() as address, ExitStack() as stack:
        server = grpc.server(futures.ThreadPoolExecutor(1))
        model_pb2_grpc.add_ModelServiceServicer_to_server(script, server)
        stack.callback(lambda: server.stop(None).wait())

        def start() -> None:
            server.add_insecure_port(address)
            server.start()

        timer = threading.Timer(0.2, start)
        timer.start()
        stack.callback(timer.join)
        policy = RetryPolicy(attempt_count=50, max_delay_s=0.2)
        with open_client(kind, address, retry=policy, timeout=20) as whit:
            assert whit.models() == []


def test_a_server_that_is_no_whit(kind: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with open_client(kind, f"127.0.0.1:{port}") as whit, pytest.raises(Unimplemented, match="it is no whit server"):
            whit.embed(["a"], model="m")
    finally:
        server.stop(None).wait()


def test_a_server_that_shuts_down_in_the_middle(kind: str, tmp_path: Path) -> None:
    """The real one: it drains, and the stream says how far it came."""
    source = (f"text {number}" for number in itertools.count())
    answered = 0

    def read_on(results: Iterator[Any]) -> None:
        nonlocal answered
        for result in results:
            answered += len(result)

    with ExitStack() as server:
        address = server.enter_context(server_thread(tmp_path / "data", drain_timeout_s=1.0))
        stopper = threading.Thread(target=server.pop_all().close)
        with open_client(kind, address, retry=RetryPolicy(attempt_count=1)) as whit:
            results = whit.embed_stream(source, model="tiny", batch_size=4)
            answered += len(next(results))
            stopper.start()
            with pytest.raises((Unavailable, Cancelled)) as caught:
                read_on(results)
        stopper.join()
    assert f"the stream broke after its first {answered} items were answered" in str(caught.value)


def test_proxies_of_the_environment_do_not_come_between(
    kind: str, address: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    script.list_models = [works]

    with open_client(kind, address) as whit:
        assert whit.models() == []


def test_credentials_make_a_secure_channel(kind: str, address: str) -> None:
    """A server without TLS cannot be talked to with it: the credentials are used, not dropped."""
    policy = RetryPolicy(attempt_count=1)
    with (
        open_client(kind, address, credentials=grpc.ssl_channel_credentials(), retry=policy) as whit,
        pytest.raises(Unavailable),
    ):
        whit.models()
