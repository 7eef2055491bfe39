"""infinity's HTTP server with its optimum engine and aiohttp as the client; vectors travel as base64, which is its fastest form."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from serve_common import ServerUnderLoad, free_ports, serve, start, stop


class InfinityServer(ServerUnderLoad):
    """Options: ``folder`` with the graph beside the tokenizer."""

    def __init__(self, options: dict[str, Any]) -> None:
        [port] = free_ports(1)
        self._url = f"http://127.0.0.1:{port}/embeddings"
        program = str(Path(sys.executable).with_name("infinity_emb"))
        # "." because optimum takes the file's name relative to the folder, and infinity gives it the path.
        flags = ["--model-id", ".", "--served-model-name", "m", "--engine", "optimum", "--device", "cpu"]
        flags += ["--pooling-method", "mean", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
        flags += ["--onnx-disable-optimize"]  # it fails with this optimum, and infinity then goes on without
        self._process = start(
            [program, "v2", *flags], port, Path(options["folder"]), INFINITY_ANONYMOUS_USAGE_STATS="0"
        )
        self.process_ids = [self._process.pid]

    async def connect(self) -> None:
        """A pool of connections without a limit."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def ask(self, texts: list[str], timeout_s: float | None) -> NDArray[np.float32]:
        """POST /embeddings."""
        body = {"model": "m", "input": texts, "encoding_format": "base64"}
        async with self._session.post(self._url, json=body) as response:
            response.raise_for_status()
            rows = (await response.json())["data"]
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in rows])

    async def disconnect(self) -> None:
        """Closes the pool."""
        await self._session.close()

    def close(self) -> None:
        """SIGTERM."""
        stop(self._process)


serve(InfinityServer)
