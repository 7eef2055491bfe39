"""``whit serve`` and the SDK's AsyncClient: one connection, never a second try."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serve_common import ServerUnderLoad, serve

from bench.server import running
from whit.client import AsyncClient, RetryPolicy


class WhitServer(ServerUnderLoad):
    """Options: ``package``."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        data = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._server = self._stack.enter_context(running([Path(options["package"])], data))
        self.process_ids = [self._server.process.pid]

    async def connect(self) -> None:
        """One client for all."""
        self._client = AsyncClient(self._server.address, retry=RetryPolicy(attempt_count=1))
        self._model = (await self._client.models())[0].name

    async def ask(self, texts: list[str], timeout_s: float | None) -> NDArray[np.float32]:
        """Embed."""
        found = await self._client.embed(texts, model=self._model, on_overflow="truncate", timeout=timeout_s)
        return found.vectors

    async def disconnect(self) -> None:
        """Closes the client."""
        await self._client.aclose()

    def close(self) -> None:
        """SIGTERM."""
        self._stack.close()


serve(WhitServer)
