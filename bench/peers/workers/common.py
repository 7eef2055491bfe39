"""The worker's side of the harness: JSON lines in, JSON lines out. Runs in the contender's own environment: numpy only.

Requests are ``{"op": "load"}``, ``{"op": "embed", "texts": [...], "save": "FILE.npy"}`` (one call with all texts), ``{"op": "single",
"texts": [...], "save": ...}`` (one call a text) and ``{"op": "stop"}``. Every reply has what the process and its helpers have used: ``cpu_seconds``
during the request and ``peak_bytes`` since the start.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


class Contender(Protocol):
    """What every contender has."""

    process_ids: Sequence[int]
    """Helper processes whose processor time and memory count too."""

    def close(self) -> None:
        """Ends helper processes."""


class Embedder(Contender, Protocol):
    """What a contender has to do that is called directly."""

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 [texts, dimensions], texts cut at 256 tokens, batched as the tool does it best."""


C = TypeVar("C", bound=Contender)


class InProcess:
    """Base of contenders without helper processes."""

    process_ids: Sequence[int] = ()

    def close(self) -> None:
        """Nothing to end."""


def serve(make: Callable[[dict[str, Any]], Embedder]) -> None:
    """Answers requests for an embedder; its options are the JSON in ``argv[1]``."""
    answer_all(make, _answer)


def answer_all(make: Callable[[dict[str, Any]], C], answer: Callable[[C, dict[str, Any]], dict[str, Any]]) -> None:
    """Answers requests, the first of which is ``load``, until ``stop`` or the end of the input."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    contender: C | None = None
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "stop":
                break
            helpers = contender.process_ids if contender else ()
            cpu = _cpu_seconds(helpers)
            start = time.perf_counter()
            if contender is None:
                contender = make(json.loads(sys.argv[1]))
                cpu, helpers = _cpu_seconds(()), contender.process_ids
                reply: dict[str, Any] = {"seconds": time.perf_counter() - start}
            else:
                reply = answer(contender, request)
            used = _cpu_seconds(helpers) - cpu
            reply |= {"cpu_seconds": used, "peak_bytes": [_peak_bytes(pid) for pid in (os.getpid(), *helpers)]}
            replies.write(json.dumps(reply) + "\n")
    finally:
        if contender is not None:
            contender.close()


def _answer(embedder: Embedder, request: dict[str, Any]) -> dict[str, Any]:
    texts = request["texts"]
    if request["op"] == "embed":
        start = time.perf_counter()
        vectors = embedder.embed(texts)
        reply: dict[str, Any] = {"seconds": time.perf_counter() - start}
    else:
        rows, seconds = [], []
        for text in texts:
            start = time.perf_counter()
            rows.append(embedder.embed([text]))
            seconds.append(time.perf_counter() - start)
        vectors, reply = np.concatenate(rows), {"seconds": seconds}
    assert vectors.dtype == np.float32
    assert len(vectors) == len(texts)
    if request.get("save"):
        np.save(request["save"], vectors)
    return reply


def _cpu_seconds(helpers: Sequence[int]) -> float:
    ticks = 0
    for pid in helpers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return 1024 * int(found[1])
