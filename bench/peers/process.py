"""One contender's process: started in its own session, frozen between its turns, measured from outside as well."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.contenders import ROOT, Contender

REPLY_TIMEOUT_S = 300.0


class WorkerError(RuntimeError):
    """A contender failed; the message has the end of what it wrote on stderr."""


class Worker:
    """A running contender. Between requests all its processes are stopped, so that nobody spins on another's time."""

    def __init__(self, contender: Contender, log: Path) -> None:
        self.contender = contender
        self._log = log
        # Nothing may be fetched while measuring; each tool has its own word for it.
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*contender.command(), json.dumps(contender.options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | offline,
                start_new_session=True,
            )

    def load(self) -> dict[str, Any]:
        """Loads the model. ``start_seconds`` of the reply runs from the start of the process."""
        start = time.perf_counter()
        reply = self._ask({"op": "load"})
        return reply | {"start_seconds": time.perf_counter() - start}

    def embed(self, texts: Sequence[str], save: Path | None = None) -> dict[str, Any]:
        """One call with all texts. ``foreign_cores`` of the reply says how busy others kept the machine meanwhile."""
        return self._measured({"op": "embed", "texts": list(texts), "save": str(save) if save else None})

    def single(self, texts: Sequence[str], save: Path | None = None) -> dict[str, Any]:
        """One call a text; ``seconds`` of the reply has one figure a text."""
        return self._measured({"op": "single", "texts": list(texts), "save": str(save) if save else None})

    def request(self, **request: Any) -> dict[str, Any]:
        """Any other request, in the words of the contender's script."""
        return self._measured(request)

    def close(self) -> None:
        """Asks the process to end, and ends it if it does not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(b'{"op": "stop"}\n', timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def _measured(self, request: dict[str, Any]) -> dict[str, Any]:
        busy, start = _busy_seconds(), time.perf_counter()
        reply = self._ask(request)
        elapsed = time.perf_counter() - start
        return reply | {"foreign_cores": max(0.0, (_busy_seconds() - busy - reply["cpu_seconds"]) / elapsed)}

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            os.killpg(self._process.pid, signal.SIGCONT)
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], REPLY_TIMEOUT_S)[0]:
                raise WorkerError(f"no answer within {REPLY_TIMEOUT_S:.0f} s")
            line = self._process.stdout.readline()
            if not line:
                raise WorkerError("it ended")
            os.killpg(self._process.pid, signal.SIGSTOP)
        except (OSError, WorkerError) as error:
            said = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise WorkerError(f"{self.contender.name}: {error}; it said:\n{said}") from error
        reply: dict[str, Any] = json.loads(line)
        return reply


def _busy_seconds() -> float:
    """Processor time that the whole machine has spent on something, steal included."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, io_wait = ticks[3], ticks[4]
    return (sum(ticks) - idle - io_wait) / os.sysconf("SC_CLK_TCK")
