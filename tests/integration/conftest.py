"""For the tests of commands that talk to a server: a real one, and command lines that are run against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Outcome, Whit
from tests.support.packages import package
from tests.support.server import server_thread
from whit.cli.app import run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_thread(tmp_path_factory.mktemp("data"), models=[package()]) as address:
        yield address


@pytest.fixture
def whit(server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Whit:
    """Runs one command line against the server."""
    monkeypatch.setenv("WHIT_SERVER", server)

    def call(*arguments: object) -> Outcome:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that ids are short relative paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
