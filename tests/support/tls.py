"""A proxy that ends TLS before a server, passes on bytes and knows no gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading

import trustme


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
        with contextlib.closing(writer):
            back_reader, back_writer = await asyncio.open_connection(self._host, int(self._port))
            with contextlib.closing(back_writer):
                await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
