"""``whit serve`` in a process of its own and the SDK here: a stream for many texts, Embed for one."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import serve
from numpy.typing import NDArray

from bench.server import running
from whit.client import Client


class WhitGrpc:
    """Options: ``package``, a folder; ``batch_size`` of the stream. The package itself cuts texts at its token limit."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        data = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        server = self._stack.enter_context(running([Path(options["package"])], data))
        self.process_ids = [server.process.pid]
        self._client = self._stack.enter_context(Client(server.address))
        (model,) = self._client.models()
        if model.max_token_count != options["max_tokens"]:
            raise SystemExit(f"the package reads {model.max_token_count} tokens, the others {options['max_tokens']}")
        self._model, self._batch_size = model.name, options["batch_size"]

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """One message for one text, else a stream."""
        if len(texts) == 1:
            return self._client.embed(texts, model=self._model, on_overflow="truncate").vectors
        batches = self._client.embed_stream(
            texts, model=self._model, batch_size=self._batch_size, on_overflow="truncate"
        )
        return np.concatenate([batch.vectors for batch in batches])

    def close(self) -> None:
        """Stops the server."""
        self._stack.close()


serve(WhitGrpc)
