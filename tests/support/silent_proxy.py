"""A TCP proxy that can let its connections die without a word, as a router does that has forgotten them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class SilentProxy:
    """``connection_count`` were made to it; ``fall_silent`` has those that are there carry nothing any more, but stay open."""

    target: str
    connection_count: int = 0
    address: str = ""
    _silent: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list)

    def fall_silent(self) -> None:
        self._silent.set()
        self._silent = threading.Event()  # of the connections to come

    def serve(self, listener: socket.socket) -> None:
        host, _, port = self.target.rpartition(":")
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.connection_count += 1
            far = socket.create_connection((host, int(port)))
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(source, sink, self._silent), daemon=True).start()

    def close(self) -> None:
        for end in self._open:
            _shut(end)
            end.close()


def _carry(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            if not silent.is_set():
                sink.sendall(data)
    if not silent.is_set():
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def silent_proxy(target: str) -> Iterator[SilentProxy]:
    """A proxy on a free port of 127.0.0.1 before the server at ``target``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = SilentProxy(target, address=f"127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            _shut(listener)  # which wakes accept
            thread.join()
            proxy.close()
