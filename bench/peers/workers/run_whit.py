"""whit's own package in process: one call of the runtime a micro-batch, one thread a core."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import InProcess, serve
from numpy.typing import NDArray

from whit.runtime import Tokenizer, open_encoder, open_package

TOKENIZED_TOGETHER = 64


class Whit(InProcess):
    """Options: ``package``, a folder; ``max_tokens``; ``token_budget`` of a micro-batch."""

    def __init__(self, options: dict[str, Any]) -> None:
        package = open_package(Path(options["package"]))
        self._max_tokens, self._token_budget = options["max_tokens"], options["token_budget"]
        self._tokenizer, self._encoder = Tokenizer(package), open_encoder(package)
        self._core_count = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._core_count)

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Sorted into micro-batches, side by side on all cores; a lone text on all of them together, as the server does it."""
        parts = [texts[i : i + TOKENIZED_TOGETHER] for i in range(0, len(texts), TOKENIZED_TOGETHER)]
        ids = [s for part in self._pool.map(self._tokenizer.encode, parts) for s in part]
        cut = [self._tokenizer.cut(s, self._max_tokens) for s in ids]
        if len(cut) == 1:
            return self._encoder.run(cut, core_count=min(self._core_count, self._encoder.most_cores))
        return self._encoder.encode(cut, token_budget=self._token_budget, executor=self._pool)


serve(Whit)
