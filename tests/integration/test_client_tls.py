"""Both clients over TLS, as to a server behind a proxy that ends it: the proxy here passes on bytes and knows no gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from tests.support.clients import KINDS, open_client
from tests.support.server import server_thread
from whit.client import RetryPolicy, Unavailable

_TEXTS = ["the first text", "another one"]


class TlsProxy(threading.Thread):
    """Ends TLS on a free port of 127.0.0.1, with a certificate for ``name``, and passes on to ``target``.

    A context manager that gives its address.
    """

    def __init__(self, target: str, authority: trustme.CA, name: str = "127.0.0.1") -> None:
        super().__init__(name="tls-proxy")
        self._host, _, self._port = target.rpartition(":")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.set_alpn_protocols(["h2"])
        authority.issue_cert(name).configure_cert(self._context)
        self._address = ""
        self._ready = threading.Event()

    def __enter__(self) -> str:
        self.start()
        self._ready.wait()
        return self._address

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_thread(tmp_path_factory.mktemp("data")) as address:
        yield address


@pytest.fixture(scope="module")
def encrypted(plain: str, authority: trustme.CA) -> Iterator[str]:
    with TlsProxy(plain, authority) as address:
        yield address


def credentials(authority: trustme.CA, tmp_path: Path) -> grpc.ChannelCredentials:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return grpc.ssl_channel_credentials((tmp_path / "authority.pem").read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_come_through(
    kind: str, plain: str, encrypted: str, authority: trustme.CA, tmp_path: Path
) -> None:
    with open_client(kind, plain) as client:
        expected = client.embed(_TEXTS, model="tiny").vectors
    with open_client(kind, encrypted, credentials=credentials(authority, tmp_path)) as client:
        found = client.embed(_TEXTS, model="tiny").vectors
        streamed = [batch.vectors for batch in client.embed_stream(_TEXTS, model="tiny", batch_size=1)]

    assert np.array_equal(found, expected)
    assert np.array_equal(np.concatenate(streamed), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_said(kind: str, plain: str, encrypted: str, authority: trustme.CA, tmp_path: Path) -> None:
    known, unknown = credentials(authority, tmp_path), credentials(trustme.CA(), tmp_path)
    with TlsProxy(plain, authority, "elsewhere.test") as elsewhere:
        for address, given, words in (
            (encrypted, unknown, "certificate of .* is not to be trusted"),
            (elsewhere, known, "use a name that is in it"),
            (plain, known, "does not speak TLS"),
        ):
            with (
                open_client(kind, address, credentials=given, retry=RetryPolicy(attempt_count=1)) as client,
                pytest.raises(Unavailable, match=words),
            ):
                client.embed(_TEXTS, model="tiny")
