"""A real ``whit serve`` as a child process on a free port, stopped whatever happens: what ``whit demo`` asks."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whit.cli.command import Failure
from whit.cli.signals import interrupted_by_signals

START_LIMIT_S = 60.0
STOP_LIMIT_S = 40.0  # more than the server gives the calls in progress

_LISTENING = re.compile(r"listening on (\S+)\n")


@contextmanager
def local_server(package: Path, data: Path, log: Path) -> Iterator[str]:
    """Starts a server of ``package`` and ``data`` and gives its address once it serves; its output goes to ``log``.

    Raises:
        Failure: it ended, or did not listen within ``START_LIMIT_S``; the message has the last line of its log.
    """
    command = [sys.executable, "-m", "whit.cli", "serve", "--models", str(package), "--data", str(data)]
    # Port 0 is one that is free, whatever else runs here; the log then says which. The log must not be set otherwise by WHIT_*.
    command += ["--listen", "127.0.0.1:0", "--log-format", "text", "--log-level", "info"]
    with interrupted_by_signals(), log.open("w", encoding="utf-8") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the server once.
        process = subprocess.Popen(  # noqa: S603 - this program itself
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _wait_for_address(process, log)
        finally:
            _stop(process)


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None  # asked first, so that the log is then complete
        if found := _LISTENING.search(log.read_text(encoding="utf-8", errors="replace")):
            return found[1]
        if has_ended:
            raise Failure(f"the server did not start: {_last_line(log)} (all it said is in {log})")
        time.sleep(0.02)
    raise Failure(f"the server did not listen within {START_LIMIT_S:.0f} s; {log} has its log")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing").removeprefix("whit serve: ")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, so that it drains and writes its snapshots; SIGKILL if that takes longer than it may, or is interrupted."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # After a second Ctrl-C, or where it hangs: what it acknowledged is on disk anyway.
        if process.poll() is None:
            process.kill()
            process.wait()
