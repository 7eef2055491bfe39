"""``whit index`` and ``whit search`` against a real server: what they write, find, refuse and return."""

import gzip
import json
from pathlib import Path

import pytest

from tests.support.command_line import MODEL, Whit


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


def test_what_was_written_of_a_file_that_cannot_be_read_now_stays(whit: Whit, files: Path) -> None:
    """It was deleted as passages that are no longer in the file."""
    (files / "a.txt").write_text("one\n\ntwo\n\nthree\n")
    assert whit("index", "--collection", "stays", "a.txt").code == 0
    (files / "a.txt").write_bytes(gzip.compress(b"one\n\ntwo\n\nthree\n"))

    found = whit("index", "--collection", "stays", "a.txt")

    assert found.code == 1
    assert "unpack it first" in found.err
    assert "stays now has 3 points" in found.out


def test_a_file_that_is_named_twice_is_read_once(whit: Whit, files: Path) -> None:
    """The second reading had no passages of its own, so those of the first were deleted."""
    (files / "a.txt").write_text("one\n\ntwo\n\nthree\n")
    assert whit("index", "--collection", "twice", "a.txt").code == 0
    (files / "sub").mkdir()

    found = whit("index", "--collection", "twice", "a.txt", "sub/../a.txt")

    assert (found.code, found.err) == (0, "")
    assert "3 passages from 1 file in" in found.out
    assert "twice now has 3 points" in found.out


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
