"""Where the output of a command goes: full disks, closed streams, consoles that lack characters."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.disk import full_disk
from whit.cli import app, output
from whit.cli.embed import _Row, _texts, _write_npy


class FullDisk(io.StringIO):
    """A stream that has no room; like one of Python's, its errors name no file."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("show", [output.print_json, lambda value: output.console().print(value)])
def test_a_full_disk_behind_standard_output_is_named(show: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())

    with pytest.raises(OSError, match="No space left on device") as error:
        show({"a": 1})  # type: ignore[operator]

    line, code = app.explain(error.value, "models")
    assert (line, code) == ("whit models: standard output: No space left on device; free some space there", 1)


@pytest.mark.parametrize("count", [1, 100], ids=["Python's buffer", "past it"])
def test_a_file_of_vectors_that_finds_no_room_is_named(count: int, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    row = _Row(1, "text", 1, False, np.zeros(4096, np.float32), None)

    with full_disk(), pytest.raises(OSError, match="File too large") as error:
        _write_npy(out, [row] * count)

    assert error.value.filename == str(out)


def test_a_file_that_fails_while_it_is_read_is_named() -> None:
    memory = Path("/proc/self/mem")  # its first page cannot be read

    with pytest.raises(OSError, match="Input/output error") as error:
        _texts((), memory)

    assert error.value.filename == str(memory)


def test_vectors_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [_Row(n, "text", 1, False, np.arange(n, n + 3, dtype=np.int8), None) for n in range(3)]

    _write_npy(tmp_path / "vectors.npy", rows)

    assert np.load(tmp_path / "vectors.npy").tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_json_for_a_console_without_unicode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)

    output.print_json("é → 漢", indent=None)

    stream.flush()
    assert stream.buffer.getvalue() == rb'"\u00e9 \u2192 \u6f22"' + b"\n"  # type: ignore[attr-defined]


def test_a_console_without_unicode_shows_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    app._prepare_streams()

    output.console().print("é → 漢")

    assert stream.buffer.getvalue() == "é ? ?\n".encode("latin-1")  # type: ignore[attr-defined]


def test_closed_streams_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    app._prepare_streams()

    output.print_json(1)
    output.console().print("text")
    output.notice("line")
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_a_closed_standard_input_has_no_texts() -> None:
    command = f'"{sys.executable}" -m whit.cli embed - <&-'

    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "whit embed: standard input has no text; give one a line\n")


@pytest.mark.parametrize("columns", ["0", "1", "20"])
def test_a_table_keeps_its_columns_however_narrow_the_console(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    output.console().print(output.table(["name", "size", "score"], [["one", "2 MB", "3.0"]], right=["size", "score"]))

    assert capsys.readouterr().out.split() == ["name", "size", "score", "─" * 19, "one", "2", "MB", "3.0"]


@pytest.mark.parametrize("columns", ["0", "30"])
def test_what_is_folded_keeps_room_beside_what_is_not(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    output.console().print(output.facts([("a name that is longer than all of it", "value and fingerprint")]))

    assert capsys.readouterr().out.split()[-3:] == ["value", "and", "fingerprint"]
