"""Both clients against servers that misbehave in ways the real one cannot be made to, or that are not there."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.clients import KINDS, open_client
from tests.support.scripted import FULL, FULL_FOR_EVER, GONE, Script, fails, scripted_server, works
from tests.support.server import server_thread
from whit.client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotFound,
    Reason,
    ResourceExhausted,
    RetryPolicy,
    Unavailable,
    Unimplemented,
)
from whit.contract.errors import Problem
from whit.v1 import model_pb2_grpc


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
