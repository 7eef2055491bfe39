"""``whit embed`` against a real server: what it prints, writes, refuses and returns."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import MODEL, Outcome, Whit


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


def test_embed_refuses_a_place_that_is_not_there_before_it_asks(whit: Whit, files: Path) -> None:
    refused = whit("embed", "x", "--out", "nowhere/x.npy", "--server", "127.0.0.1:1")

    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("whit embed: --out: the directory nowhere is not there; make it first.")
