"""The commands that talk to a server, against a real one: what they print, write, refuse and return."""

import io
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.packages import package
from tests.support.server import server_thread, tiny_package
from whit.cli.app import run

MODEL = "tiny-bert"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_thread(tmp_path_factory.mktemp("data"), models=[package()]) as address:
        yield address


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Whit = Callable[..., Outcome]


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


# --- models and info --------------------------------------------------------------------------------------------------


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


# --- embed ------------------------------------------------------------------------------------------------------------


def test_embed_prints_a_row_a_text(whit: Whit) -> None:
    shown = whit("embed", "a text", "another one")

    assert (shown.code, shown.err) == (0, "")
    assert "a text" in shown.out
    assert "another one" in shown.out
    assert " 32 " in shown.out


def test_embed_json_lines_are_the_vectors_of_every_source_in_order(
    whit: Whit, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "texts.txt").write_bytes("third line\n\nfourth: ü\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"second from a pipe\n"), encoding="utf-8"))

    found = whit("embed", "first", "-", "--file", "texts.txt", "--json")

    rows = [json.loads(line) for line in found.out.splitlines()]
    assert (found.code, found.err) == (0, "")
    assert [row["text"] for row in rows] == ["first", "second from a pipe", "third line", "fourth: ü"]
    assert all(row["token_count"] >= 3 and row["truncated"] is False for row in rows)
    vectors = np.array([row["vector"] for row in rows])
    assert vectors.shape == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_embed_writes_npy(whit: Whit, files: Path) -> None:
    (files / "texts.txt").write_text("one\ntwo\nthree\n")

    assert whit("embed", "--file", "texts.txt", "--out", "v.npy", "--encoding", "int8") == Outcome(0, "", "")
    codes = np.load(files / "v.npy")
    assert (codes.dtype, codes.shape) == (np.int8, (3, 32))

    assert whit("embed", "--file", "texts.txt", "--out", "p.npy", "--encoding", "3bit").code == 0
    planes = np.load(files / "p.npy")
    assert (planes.dtype, planes.shape) == (np.uint8, (3, 3 * 32 // 8 + 3 * 4))
    printed = [json.loads(line) for line in whit("embed", "one", "--encoding", "3bit", "--json").out.splitlines()]
    assert np.ravel(printed[0]["vector"]).tolist() == planes[0, :12].tolist()
    assert printed[0]["scales"] == planes[0, 12:].view("<f4").tolist()

    assert whit("embed", "--file", "texts.txt", "--out", "s.npy", "--dimensions", 8).code == 0
    short = np.load(files / "s.npy")
    assert short.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)


def test_embed_a_text_that_is_too_long(whit: Whit, files: Path) -> None:
    long = "word " * 200

    refused = whit("embed", "short", long, "--out", "v.npy")
    assert refused.code == 1
    assert refused.err.splitlines()[0].startswith("text 2: ")
    assert "texts[" not in refused.err
    assert "64" in refused.err.splitlines()[0]
    assert refused.err.splitlines()[1] == "whit embed: 1 of 2 texts failed, so v.npy was not written"
    assert not (files / "v.npy").exists()

    cut = whit("embed", "short", long, "--on-overflow", "truncate", "--json")
    assert cut.code == 0
    assert [json.loads(line)["truncated"] for line in cut.out.splitlines()] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 2, ["Give a TEXT"]),
        (["--file", "gone.txt"], 2, ["gone.txt", "does not exist"]),
        (["x", "--model", "unknown"], 1, ["unknown", MODEL]),
        (["x", "--role", "poet"], 1, ["poet"]),
        (["x", "--dimensions", "33"], 1, ["33", "32"]),
        (["x", "--encoding", "int4"], 2, ["int4"]),
        (["x", "--role", "query", "--instruction", "y"], 2, ["Give --role or --instruction, not both"]),
        (["\udcff"], 2, ["TEXT 1 is not UTF-8"]),
    ],
)
def test_embed_refuses_in_one_line(whit: Whit, files: Path, arguments: list[str], code: int, parts: list[str]) -> None:
    refused = whit("embed", *arguments)

    assert (refused.code, refused.out) == (code, "")
    assert refused.err.count("\n") == 1
    assert refused.err.startswith("whit embed: ")
    assert "internal error" not in refused.err
    assert all(part in refused.err for part in parts), refused.err


def test_embed_a_file_that_is_not_utf8(whit: Whit, files: Path) -> None:
    (files / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")

    refused = whit("embed", "--file", "latin.txt")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("whit embed: latin.txt:2: not UTF-8")


# --- index and search -------------------------------------------------------------------------------------------------


def test_index_and_search_every_kind_of_file(whit: Whit, files: Path) -> None:
    (files / "docs").mkdir()
    (files / "docs" / "a.txt").write_text("The sun and the sea.\n\nPaper and picture.\n")
    (files / "docs" / "b.md").write_text("# Animals\n\nFeet and head.\n\n## Night\n\nEyes see little light.\n")
    (files / "docs" / "c.jsonl").write_text(
        '{"id": "mine", "text": "mother and father", "lang": "en", "n": 3}\n{"text": "miles of land"}\n'
    )
    (files / "docs" / "ignored.bin").write_bytes(b"\x00")

    first = whit("index", "--collection", "kinds", "docs", "--storage", "int8", "--json")

    assert (first.code, first.err) == (0, "")
    assert (first.json["written_count"], first.json["file_count"], first.json["point_count"]) == (6, 3, 6)
    assert first.json["failures"] == []

    hits = whit("search", "kinds", "mother and father", "--limit", 2, "--json").json["hits"]
    assert len(hits) == 2
    assert (hits[0]["id"], hits[0]["metadata"]) == ("mine", {"lang": "en", "n": 3})
    assert hits[0]["score"] > 0.99
    assert hits[0]["score"] >= hits[1]["score"]
    [hit] = whit("search", "kinds", "Animals > Night\n\nEyes see little light.", "--limit", 1, "--json").json["hits"]
    assert hit["id"] == "docs/b.md#2"
    assert hit["metadata"] == {"file": "docs/b.md", "line": 7, "heading": "Animals > Night"}

    shown = whit("search", "kinds", "miles of land", "--limit", 1, "--exact")
    assert (shown.code, shown.err) == (0, "")
    assert "docs/c.jsonl#2" in shown.out
    assert "1 found in" in shown.out
    assert "(exact)" in shown.out

    assert "0 found in" in whit("search", "kinds", "miles of land", "--threshold", "1").out


def test_index_again_replaces_and_removes(whit: Whit, files: Path) -> None:
    (files / "a.txt").write_text("one\n\ntwo\n\nthree\n")
    assert whit("index", "--collection", "again", "a.txt").code == 0
    (files / "a.txt").write_text("one changed\n")

    second = whit("index", "--collection", "again", "a.txt")

    assert (second.code, second.err) == (0, "")
    assert "1 passage from 1 file in" in second.out
    assert "2 passages no longer in the files" in second.out
    assert "again now has 1 point" in second.out
    [hit] = whit("search", "again", "one", "--json").json["hits"]
    assert hit["text"] == "one changed"


def test_index_names_bad_lines_and_writes_the_others(whit: Whit, files: Path) -> None:
    (files / "faq.jsonl").write_bytes(
        b'{"id": "1", "text": "good"}\n'
        b"{not json}\n"
        b'{"id": "3", "text": ""}\n'
        b'{"id": "4", "text": "caf\xe9"}\n'
        b'{"id": "1", "text": "the same id"}\n'
        b'["a", "list"]\n'
        b'{"id": "7", "text": "good too"}\n'
    )

    found = whit("index", "--collection", "bad-lines", "faq.jsonl")

    assert found.code == 1
    lines = found.err.splitlines()
    assert [line.partition(" ")[0] for line in lines[:-1]] == [f"faq.jsonl:{n}:" for n in (2, 3, 4, 5, 6)]
    assert "used before in this run" in lines[3]
    assert lines[-1].startswith("whit index: 5 passages were not written, the first: faq.jsonl:2: not JSON")
    assert "written     2 passages" in found.out
    assert "failed      5" in found.out
    assert whit("search", "bad-lines", "good", "--json").json["hits"][0]["id"] == "1"


def test_index_counts_refused_passages_and_names_the_first(whit: Whit, files: Path) -> None:
    lines = [{"id": str(n), "text": "word " * (200 if n in (3, 5) else 2)} for n in range(1, 7)]
    (files / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))

    refused = whit("index", "--collection", "refused", "p.jsonl", "--on-overflow", "error", "--json")

    assert refused.code == 1
    assert refused.json["written_count"] == refused.json["point_count"] == 4
    assert [failure["source"] for failure in refused.json["failures"]] == ["p.jsonl:3", "p.jsonl:5"]
    assert "64" in refused.json["failures"][0]["why"]
    assert "points[" not in refused.err
    assert refused.err.splitlines()[-1].startswith("whit index: 2 passages were not written, the first: p.jsonl:3: ")

    cut = whit("index", "--collection", "refused", "p.jsonl", "--json")
    assert (cut.code, cut.json["written_count"], cut.json["truncated_count"]) == (0, 6, 2)


def test_index_shows_few_failures_and_counts_all(whit: Whit, files: Path) -> None:
    (files / "bad.jsonl").write_text("nonsense\n" * 50)

    found = whit("index", "--collection", "many-bad", "bad.jsonl")

    assert found.code == 1
    assert len(found.err.splitlines()) == 22
    assert "failed      50" in found.out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--collection", "x", "gone.txt"], 2, ["gone.txt", "does not exist"]),
        (["--collection", "x", "photo.png"], 2, ["photo.png: only .txt, .md, .jsonl can be read"]),
        (["a.txt"], 2, ["--collection"]),
        (["--collection", "Not A Name", "a.txt"], 2, ["'--collection'", "'Not A Name' must be 1 to 64 of a-z"]),
        (["--collection", "x", "empty"], 1, ["empty: no .txt, .md, .jsonl file in there"]),
        (["--collection", "new", "--model", "unknown", "a.txt"], 1, ["unknown"]),
        (["--collection", "there", "--model", "other", "a.txt"], 1, [f"was made with model {MODEL}, not other"]),
        (["--collection", "there", "--storage", "int8", "a.txt"], 1, ["stores float32", "int8"]),
    ],
)
def test_index_refuses_in_one_line(whit: Whit, files: Path, arguments: list[str], code: int, parts: list[str]) -> None:
    (files / "a.txt").write_text("a passage")
    (files / "photo.png").write_bytes(b"\x89PNG")
    (files / "empty").mkdir()
    assert whit("index", "--collection", "there", "a.txt").code == 0

    refused = whit("index", *arguments)

    assert (refused.code, refused.out) == (code, "")
    assert refused.err.count("\n") == 1
    assert refused.err.startswith("whit index: ")
    assert "internal error" not in refused.err
    assert all(part in refused.err for part in parts), refused.err


def test_search_a_collection_that_is_not_there(whit: Whit) -> None:
    refused = whit("search", "nowhere", "a question")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.count("\n") == 1
    assert refused.err.startswith("whit search: there is no collection nowhere; the server has")


@pytest.mark.parametrize(
    ("arguments", "part"), [(["Bad Name", "x"], "1 to 64 of a-z"), (["notes", " "], "QUESTION is empty")]
)
def test_search_refuses_before_it_asks(whit: Whit, arguments: list[str], part: str) -> None:
    refused = whit("search", *arguments, "--server", "127.0.0.1:1")

    assert (refused.code, refused.out) == (2, "")
    assert refused.err.count("\n") == 1
    assert part in refused.err


def test_search_over_the_limit_of_the_server(whit: Whit, files: Path) -> None:
    (files / "a.txt").write_text("a passage")
    assert whit("index", "--collection", "limit", "a.txt").code == 0

    refused = whit("search", "limit", "x", "--limit", 1_000_000)

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.count("\n") == 1
    assert "1000" in refused.err


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
        assert f"whit {arguments[0]}: role: must be " in whit(*arguments, "--role", "poem").err


def test_embed_refuses_a_place_that_is_not_there_before_it_asks(whit: Whit, files: Path) -> None:
    refused = whit("embed", "x", "--out", "nowhere/x.npy", "--server", "127.0.0.1:1")

    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("whit embed: --out: the directory nowhere is not there; make it first.")


# --- several models ---------------------------------------------------------------------------------------------------


def test_with_several_models_one_must_be_chosen_and_roles_are_its_own(
    tmp_path_factory: pytest.TempPathFactory, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "a.txt").write_text("a passage")
    with server_thread(tmp_path_factory.mktemp("data"), models=[package(), tiny_package("other")]) as address:
        server = ["--server", address]
        for arguments in (["embed", "x"], ["index", "--collection", "new", "a.txt"]):
            assert run([*arguments, *server]) == 1
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


# --- no server --------------------------------------------------------------------------------------------------------


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
