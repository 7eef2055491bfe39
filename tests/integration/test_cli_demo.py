"""``whit serve`` as a process of its own, and ``whit demo`` with a tiny model and a small library instead of the real ones."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.packages import copy, package
from tests.support.signals import handled
from tests.support.tiny import write_checkpoint
from whit.cli import demo, local_server
from whit.cli.app import run
from whit.client import Client, Unavailable

LIBRARY = {
    "shelf.py": '"""Keep things on a shelf and find them again."""\n'
    'def put(thing):\n    """Put a thing on the shelf, after all others."""\n'
    'def _hidden():\n    """Nobody looks this up, so it is left out."""\n',
    "lamp.py": '"""Switch a lamp on and off at night."""\nclass Lamp:\n    """A lamp that has a switch."""\n'
    '    def on(self):\n        """Switch the lamp on, if it is off."""\n',
}
OBJECTS = {"shelf", "shelf.put", "lamp", "lamp.Lamp", "lamp.Lamp.on"}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the demo use a tiny checkpoint and a library of two modules; returns the library's directory."""
    checkpoint, root = write_checkpoint(tmp_path / "model"), tmp_path / "library"
    root.mkdir()
    for name, text in LIBRARY.items():
        (root / name).write_text(text)
    monkeypatch.setattr(demo, "find_reference", lambda: checkpoint)
    monkeypatch.setattr(demo, "standard_library", lambda: root)
    return root


@contextmanager
def serve_process(*arguments: object, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """``whit serve ARGUMENTS`` as a user's shell starts it; killed if it is still there at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "whit.cli", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on (\S+)", line):
            return found[1]
    raise AssertionError("the server ended before it listened")


# --- serve ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    env = {"WHIT_DATA": str(tmp_path / "data"), "WHIT_LISTEN": "127.0.0.1:0"}
    with serve_process("--models", package(), env=env) as process:
        with Client(wait_for_address(process)) as client:
            [model] = client.models()
            assert client.embed(["a text"], model=model.name).vectors.shape == (1, 32)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert (tmp_path / "data").is_dir()


def test_second_server_on_the_same_data_or_address_is_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serve_process("--models", package(), "--data", data, "--listen", "127.0.0.1:0") as first:
        address = wait_for_address(first)
        with serve_process("--models", package(), "--data", data, "--listen", "127.0.0.1:0") as second:
            _, same_data = second.communicate(timeout=60)
        with serve_process("--models", package(), "--data", tmp_path / "other", "--listen", address) as third:
            _, same_address = third.communicate(timeout=60)
        with Client(address) as client:
            assert client.models()

    assert (second.returncode, third.returncode) == (1, 1)
    assert last_line(same_data).startswith("whit serve: ")
    assert str(data) in last_line(same_data)
    assert last_line(same_address).startswith(f"whit serve: cannot listen on {address}")
    assert "--listen" in last_line(same_address)
    assert "Traceback" not in same_data + same_address


@pytest.mark.parametrize("damage", ["missing", "altered", "newer"])
def test_serve_refuses_a_package_in_one_line(tmp_path: Path, damage: str) -> None:
    bad = copy(tmp_path / "bad")
    match damage:
        case "missing":
            (bad / "tokenizer.json").unlink()
        case "altered":
            (bad / "tokenizer.json").write_text("{}")
        case _:
            manifest = json.loads((bad / "manifest.json").read_text())
            (bad / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    arguments = ["--models", package(), bad, "--data", tmp_path / "data", "--listen", "127.0.0.1:0"]
    with serve_process(*arguments) as process:
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (1, "")
    line = last_line(err)
    assert line.startswith(f"whit serve: {bad}")
    assert {"missing": "is missing", "altered": "altered", "newer": "format version 99"}[damage] in line
    assert "Traceback" not in err


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_compiles_serves_indexes_asks_and_is_quick_when_repeated(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "demo"

    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["timings"]["compile_s"] > 0
    assert first["timings"]["passages_per_s"] > 0
    assert first["passage_count"] == len(OBJECTS)
    assert [answer["question"] for answer in first["answers"]] == list(demo.QUESTIONS)
    for answer in first["answers"]:
        assert answer["time_ms"] > 0
        assert {hit["metadata"]["object"] for hit in answer["hits"]} <= OBJECTS
        scores = [hit["score"] for hit in answer["hits"]]
        assert len(scores) == demo.HIT_COUNT
        assert scores == sorted(scores, reverse=True)

    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["timings"]["compile_s"] is None
    assert second["timings"]["passages_per_s"] is None
    assert second["fingerprint"] == first["fingerprint"]
    assert found(second) == found(first)


def found(content: dict[str, list[dict[str, list[dict[str, object]]]]]) -> list[list[tuple[object, object]]]:
    return [[(hit["id"], hit["score"]) for hit in answer["hits"]] for answer in content["answers"]]


def test_demo_for_people_ends_with_commands_that_work(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "demo"

    assert run(["demo", "--dir", str(directory)]) == 0

    printed = capsys.readouterr().out
    assert all(question in printed for question in demo.QUESTIONS)
    assert "lamp" in printed
    commands = [line.strip() for line in printed.splitlines() if " -m whit.cli " in line]
    serve, search, info, _ = [command.partition(" -m whit.cli ")[2].split() for command in commands]
    assert serve[0] == "serve"
    with serve_process(*serve[1:], "--listen", "127.0.0.1:0") as process:
        address = wait_for_address(process)
        assert run([search[0], search[1], "a lamp", "--server", address]) == 0
        assert run([*info, "--server", address]) == 0
    assert demo.COLLECTION in capsys.readouterr().out


def test_demo_mends_what_is_not_as_it_should_be(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "demo"
    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)

    # A docstring changed, another is new, and the package was damaged.
    (library / "lamp.py").write_text(LIBRARY["lamp.py"].replace("at night", "by day"))
    (library / "stone.py").write_text('"""Count the stones on the way home."""\n')
    (Path(before["package"]) / "model.onnx").write_bytes(b"damaged")
    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    captured = capsys.readouterr()
    after = json.loads(captured.out)
    assert after["timings"]["compile_s"] > 0
    assert after["passage_count"] == before["passage_count"] + 1
    assert "indexing  2 " in captured.err

    # Now there is more in the collection than in the library: it starts anew.
    (library / "stone.py").unlink()
    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passage_count"] == before["passage_count"]
    assert f"indexing  {before['passage_count']} " in captured.err

    # Another checkpoint makes another package, whose vectors do not go with those in the collection.
    write_checkpoint(demo.find_reference(), seed=5)
    assert run(["demo", "--dir", str(directory), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["fingerprint"] != before["fingerprint"]
    assert f"indexing  {before['passage_count']} " in captured.err


def test_demo_says_why_its_server_did_not_start(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "data").write_text("a file where the directory should be")

    assert run(["demo", "--dir", str(directory)]) == 1

    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("whit demo: the server did not start: ")
    assert str(directory / "data") in err
    assert str(directory / "server.log") in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_demo_stops_its_server(tmp_path: Path, number: signal.Signals) -> None:
    address = ""
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    with handled(number, usual):
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
            with local_server.local_server(package(), tmp_path / "data", tmp_path / "log") as address:
                with Client(address) as client:
                    assert client.models()
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is usual

    assert "stopped" in last_line((tmp_path / "log").read_text())
    with Client(address, timeout=1) as client, pytest.raises((Unavailable, TimeoutError)):
        client.models()
