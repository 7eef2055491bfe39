"""The worker's side of a server under load: starts the server, and is its clients in one asyncio process.

Requests beyond those of ``common``: ``{"op": "closed", "batches": [[...]], "clients": 16}`` (each client sends its next request when its last
was answered) and ``{"op": "open", "batches": ..., "due": [seconds...], "deadline_s": 1}`` (each request is sent when it is due). Latencies run
from the send, or from the moment the request was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import answer_all
from numpy.typing import NDArray

START_TIMEOUT_S = 120.0


class ServerUnderLoad:
    """A server in a process of its own. A subclass knows how to start it and how to ask it."""

    process_ids: Sequence[int] = ()

    async def connect(self) -> None:
        """Opens the connections."""

    async def ask(self, texts: list[str], timeout_s: float | None) -> NDArray[np.float32]:
        """Vectors of texts, float32 [texts, dimensions]. Any exception counts as a failed request."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """Closes the connections."""

    def close(self) -> None:
        """Ends the server."""


def serve(make: Callable[[dict[str, Any]], ServerUnderLoad]) -> None:
    """Answers requests until ``stop``."""
    answer_all(make, lambda server, request: asyncio.run(_answer(server, request)))


async def _answer(server: ServerUnderLoad, request: dict[str, Any]) -> dict[str, Any]:
    await server.connect()
    try:
        if request["op"] == "closed":
            return await _closed(server, request["batches"], request["clients"])
        if request["op"] == "open":
            return await _open(server, request["batches"], request["due"], request["deadline_s"])
        vectors = await server.ask(request["texts"], None)
        np.save(request["save"], vectors)
        return {}
    finally:
        await server.disconnect()


async def _closed(server: ServerUnderLoad, batches: list[list[str]], clients: int) -> dict[str, Any]:
    await asyncio.gather(*(server.ask(batches[0], None) for _ in range(clients)))  # every connection is open
    waiting, seconds = iter(batches), []

    async def client() -> None:
        for batch in waiting:
            start = time.perf_counter()
            vectors = await server.ask(batch, None)
            seconds.append(time.perf_counter() - start)
            assert len(vectors) == len(batch)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return {"seconds": time.perf_counter() - start, "latencies_s": seconds}


async def _open(
    server: ServerUnderLoad, batches: list[list[str]], due: list[float], deadline_s: float
) -> dict[str, Any]:
    await asyncio.gather(*(server.ask(batches[0], None) for _ in range(16)))
    latencies: list[float] = []
    failed = late = 0
    start = time.perf_counter()

    async def one(at: float, batch: list[str]) -> None:
        nonlocal failed, late
        left = deadline_s - (time.perf_counter() - start - at)
        try:
            if left <= 0:
                raise TimeoutError
            await asyncio.wait_for(server.ask(batch, left), left)
        except Exception:  # noqa: BLE001 - each tool has its own, and all mean that no answer came
            failed += 1
            return
        latency = time.perf_counter() - start - at
        late += latency > deadline_s
        latencies.append(latency)

    async with asyncio.TaskGroup() as group:
        for at, batch in zip(due, batches, strict=True):
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - start)))
            group.create_task(one(at, batch))
    return {"latencies_s": latencies, "failed": failed, "late": late}


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(command: Sequence[str], port: int, cwd: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a server and waits until it listens on ``port``; what it prints goes to this process's stderr."""
    process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=2, env=os.environ | environment)
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process
        time.sleep(0.1)
    stop(process)
    raise SystemExit(f"{command[0]} did not listen on port {port} within {START_TIMEOUT_S:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL if that does not help."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
