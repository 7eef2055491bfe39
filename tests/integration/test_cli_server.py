"""The commands that talk to a server, against a real one: what they have in common, and ``whit models`` and ``whit info``."""

import json
import socket
import time
from pathlib import Path

import pytest

from tests.support.command_line import MODEL, Whit
from tests.support.packages import package
from tests.support.server import server_thread, tiny_package
from whit.cli.app import run
from whit.client import Client


def test_models(whit: Whit) -> None:
    listed = whit("models", "--json")
    assert listed.code == 0
    [model] = listed.json
    assert (model["name"], model["dimension_count"], model["dtype"], model["verified"]) == (MODEL, 32, "float32", True)

    shown = whit("models")
    assert shown.code == 0
    assert MODEL in shown.out
    assert model["fingerprint"][:19] in shown.out


def test_models_costs(whit: Whit, files: Path) -> None:
    (files / "a.txt").write_text("one line\nand another\n")
    assert whit("embed", "a.txt", "--out", "a.npy").code == 0

    [model] = whit("models", "--json").json
    costs = model["costs"]
    assert costs["run_count"] > 0
    assert min(costs["run_time_us"], costs["token_time_us"], costs["cell_time_us"]) >= 0
    shown = whit("models", "--costs")
    assert shown.code == 0
    cells = shown.out.split(MODEL)[1].split()
    assert cells[:2] == [f"{costs['run_time_us'] / 1e3:.2f}", f"{costs['token_time_us']:.1f}"]
    assert cells[-2] == str(costs["run_count"])


def test_info(whit: Whit, server: str, files: Path) -> None:
    (files / "a.txt").write_text("one passage")
    assert whit("index", "--collection", "for-info", "a.txt").code == 0

    about = whit("info", "--json")
    assert about.code == 0
    assert [model["name"] for model in about.json["models"]] == [MODEL]
    assert about.json["limits"]["batch_item_count"] > 0
    assert {c["name"]: c["point_count"] for c in about.json["collections"]}["for-info"] == 1

    shown = whit("info")
    assert shown.code == 0
    assert server in shown.out
    assert "batch item count" in shown.out
    assert "for-info" in shown.out


def test_info_marks_collections_of_packages_that_are_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for package_now in (tiny_package(), tiny_package(seed=1)):  # of the same name
        with server_thread(tmp_path, models=[package_now]) as address:
            with Client(address) as client:
                if not shown:
                    client.create_collection("old", model="tiny")
            assert run(["info", "--server", address]) == 0
        shown.append("tiny (package not loaded)" in capsys.readouterr().out)
    assert shown == [False, True]


def test_what_the_server_refuses_is_said_in_words_of_the_command_line(whit: Whit, files: Path) -> None:
    (files / "a.txt").write_text("a passage")
    assert whit("index", "--collection", "words", "a.txt").code == 0
    long = "mother " * 500

    for arguments in (["search", "words", long], ["embed", long]):
        refused = whit(*arguments)
        assert refused.code == 1
        assert "give --on-overflow truncate to" in refused.err
        assert "texts[" not in refused.err
        assert refused.err.startswith(("whit search: the text has 502 tokens", "text 1: has 502 tokens"))
    assert whit("search", "words", long, "--on-overflow", "truncate", "--json").json["hits"]
    for arguments in (["search", "words", "x"], ["embed", "x"]):
        assert f"whit {arguments[0]}: --role: must be " in whit(*arguments, "--role", "poem").err


def test_with_several_models_one_must_be_chosen_and_roles_are_its_own(
    tmp_path_factory: pytest.TempPathFactory, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "a.txt").write_text("a passage")
    with server_thread(tmp_path_factory.mktemp("data"), models=[package(), tiny_package("other")]) as address:
        server = ["--server", address]
        for arguments in (["embed", "x"], ["index", "--collection", "new", "a.txt"]):
            assert run([*arguments, *server]) == 2
            assert f"pick one with --model: other, {MODEL}" in capsys.readouterr().err
        assert run(["search", "new", "x", *server]) == 1
        assert "the server has none; make one with: whit index" in capsys.readouterr().err

        vectors = {}
        for role in ("query", "document"):
            assert run(["embed", "x", "--model", "other", "--role", role, "--json", *server]) == 0
            vectors[role] = json.loads(capsys.readouterr().out)["vector"]
        assert vectors["query"] != vectors["document"]

        assert run(["index", "--collection", "new", "--model", "other", "a.txt", *server]) == 0
        capsys.readouterr()
        scores = {}
        for role in ("query", "document"):
            assert run(["search", "new", "a passage", "--role", role, "--json", *server]) == 0
            [hit] = json.loads(capsys.readouterr().out)["hits"]
            scores[role] = hit["score"]
        assert scores["query"] < scores["document"] == pytest.approx(1, abs=1e-5)  # written as a document


@pytest.mark.parametrize("name", ["tiny", "renamed"])
def test_a_collection_of_a_package_that_is_not_loaded_is_refused_once(
    name: str, tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "a.txt").write_text("one\n\ntwo\n\nthree")
    command = ["index", "--collection", "notes", "a.txt", "--passage-characters", "50", "--server"]
    with server_thread(tmp_path / "data", models=[tiny_package("tiny")]) as address:
        assert run([*command, address]) == 0
    capsys.readouterr()

    with server_thread(tmp_path / "data", models=[tiny_package(name, seed=1)]) as address:
        assert run([*command, address]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "collection notes was made with model tiny of fingerprint sha256:" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["info"],
        ["embed", "a text"],
        ["search", "notes", "a question"],
        ["index", "--collection", "notes", "a.txt"],
    ],
)
def test_unreachable_server_is_one_line(capsys: pytest.CaptureFixture[str], files: Path, arguments: list[str]) -> None:
    (files / "a.txt").write_text("a passage")
    with socket.socket() as held:  # bound, never listening: nobody else can answer there
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        start = time.monotonic()
        code = run([*arguments, "--server", address, "--timeout-s", "20"])
        seconds = time.monotonic() - start

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"whit {arguments[0]}: ")
    assert address in captured.err
    assert "whit serve" in captured.err
    assert seconds < 15
