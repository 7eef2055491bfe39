"""Runs that write the same thing: one at a time, refused or waited for, and no lock is left behind."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from whit.export.errors import CheckpointError
from whit.export.turns import turn

WAIT_S = 20


def test_a_second_run_is_refused_by_the_name_of_what_it_would_write(tmp_path: Path) -> None:
    out = tmp_path / "new" / "student"
    with turn(out), pytest.raises(CheckpointError, match=r"another run is writing .*student; wait"), turn(out):
        pytest.fail("both have the turn")
    with turn(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_whoever_waits_comes_after_all_before_it(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Semaphore(0)

    def other(name: str) -> None:
        with turn(tmp_path / "step", waiting=waiting.release):
            order.append(f"{name} begins")
            order.append(f"{name} ends")

    threads = [threading.Thread(target=other, args=(name,)) for name in "ab"]
    with turn(tmp_path / "step"):
        for thread in threads:
            thread.start()
        for _ in threads:
            assert waiting.acquire(timeout=WAIT_S)
        order.append("first ends")
    for thread in threads:
        thread.join(WAIT_S)

    assert order in [
        ["first ends", f"{one} begins", f"{one} ends", f"{two} begins", f"{two} ends"] for one, two in ("ab", "ba")
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_turn_of_a_process_that_was_killed_is_over(tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from whit.export.turns import turn
with turn(pathlib.Path({str(tmp_path / "student")!r})):
    os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == [".student.lock"]
    with turn(tmp_path / "student"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"), turn(tmp_path / "file" / "student"):
        pass
