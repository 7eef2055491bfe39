"""A real ``whit serve`` as a subprocess, for measurements."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_READY = re.compile(r"listening on (\S+)")


@dataclass
class ServerProcess:
    """The process, where it listens and when it was started (``time.perf_counter`` seconds)."""

    process: subprocess.Popen[str]
    address: str
    start_time: float

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory now, and the most it has been."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        now, peak = (int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[index]
        return now, peak

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(models: Sequence[Path], data: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Starts the server on a free port and waits until it listens; SIGTERM at the end."""
    flags = [part for model in models for part in ("--models", str(model))]
    command = [sys.executable, "-m", "whit.cli", "serve", *flags, "--data", str(data), "--listen", "127.0.0.1:0"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield ServerProcess(process, _address(process), start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := _READY.search(line):
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or the pipe would fill up
            return found[1]
    raise SystemExit("the server did not start:\n" + "".join(seen))
