"""Pings on silent connections: both sides notice a dead one, and the server ends none because of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.clients import KINDS, MODEL, open_client
from tests.support.server import running_server_for_tests, server_thread
from tests.support.silent_proxy import SilentProxy, silent_proxy
from tests.support.wire import embed_options
from whit.client._channel import options
from whit.contract import keepalive
from whit.server import app
from whit.v1 import embedding_pb2, embedding_pb2_grpc

# gRPC pings no more often than this, so what is permitted is scaled down with it.
LEAST_PING_MS = 1000
PERMITTED_MS = keepalive.LEAST_INTERVAL_MS
SCALED_MS = PERMITTED_MS * LEAST_PING_MS // keepalive.CLIENT_INTERVAL_MS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def permitted_ms() -> int:
    return SCALED_MS


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, permitted_ms: int) -> None:
    """Short intervals on both sides, and a server that ends a connection at the second bad ping (gRPC: at the third)."""
    monkeypatch.setattr(keepalive, "CLIENT_INTERVAL_MS", LEAST_PING_MS)
    monkeypatch.setattr(keepalive, "SERVER_INTERVAL_MS", LEAST_PING_MS)
    monkeypatch.setattr(keepalive, "TIMEOUT_MS", 1500)  # longer than a busy machine keeps an answer waiting
    monkeypatch.setattr(keepalive, "LEAST_INTERVAL_MS", permitted_ms)
    usual = app._options
    monkeypatch.setattr(app, "_options", lambda config: [*usual(config), ("grpc.http2.max_ping_strikes", 1)])


@pytest.fixture
def proxy(tmp_path: Path, short: None) -> Iterator[SilentProxy]:
    with server_thread(tmp_path) as address, silent_proxy(address) as proxy:
        yield proxy


def idle_connections(kind: str, proxy: SilentProxy, pings: float = 2.3) -> int:
    """Connections that a client made which called, was idle for so many pings, and called again."""
    with open_client(kind, proxy.address) as whit:
        whit.models()
        time.sleep(pings * LEAST_PING_MS / 1e3)
        whit.models()
    return proxy.connection_count


def test_an_idle_connection_is_kept(kind: str, proxy: SilentProxy) -> None:
    assert idle_connections(kind, proxy) == 1


@pytest.mark.parametrize("permitted_ms", [PERMITTED_MS])
def test_a_server_that_permits_less_would_end_it(proxy: SilentProxy) -> None:
    assert idle_connections("Client", proxy, pings=3.5) == 2  # two would do, but a busy machine sends them late


def test_a_call_on_a_connection_that_died_goes_out_on_another(kind: str, proxy: SilentProxy) -> None:
    with open_client(kind, proxy.address, timeout=10) as whit:
        whit.models()
        proxy.fall_silent()
        start = time.monotonic()
        assert [model.name for model in whit.models()] == [MODEL]  # without pings it would end at its deadline
        assert time.monotonic() - start < 5
    assert proxy.connection_count == 2


def test_a_stream_whose_client_vanished_is_ended(tmp_path: Path, short: None) -> None:
    async def run() -> None:
        async with running_server_for_tests(tmp_path) as server:
            with silent_proxy(server.address) as proxy:
                async with grpc.aio.insecure_channel(proxy.address) as channel:
                    call = embedding_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed()
                    await call.write(embedding_pb2.StreamEmbedRequest(config=embed_options()))
                    items = [embedding_pb2.StreamEmbedItem(text="a")]
                    batch = embedding_pb2.StreamEmbedBatch(items=items)
                    await call.write(embedding_pb2.StreamEmbedRequest(batch=batch))
                    await call.read()
                    assert server.dispatcher.active_count == 1
                    proxy.fall_silent()
                    await asyncio.wait_for(server.dispatcher.idle(), 5)
                    call.cancel()

    asyncio.run(run())


def test_the_server_permits_what_the_client_sends() -> None:
    sent = dict(options("encoder.example:7600"))
    assert sent["grpc.keepalive_time_ms"] >= 1.5 * keepalive.LEAST_INTERVAL_MS  # clocks and networks are not exact
    assert sent["grpc.keepalive_permit_without_calls"] == 1
    assert sent["grpc.http2.max_pings_without_data"] == 0
