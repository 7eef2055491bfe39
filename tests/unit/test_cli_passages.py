"""Files to passages: stable ids, sizes that fit, bad lines reported and skipped."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.cli.passages import BadLine, Passage, find_files, id_stem, read_passages, split_text


def read(path: Path, character_count: int = 800) -> tuple[list[Passage], list[BadLine]]:
    found = list(read_passages(path, character_count))
    return [f for f in found if isinstance(f, Passage)], [f for f in found if isinstance(f, BadLine)]


@given(st.text(alphabet="ab .\n\u00e9", max_size=200), st.integers(1, 40))
def test_split_text_loses_nothing_but_white_space_and_never_exceeds_the_limit(text: str, limit: int) -> None:
    pieces = list(split_text(text, limit))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_split_text_prefers_paragraphs_then_sentences_then_words() -> None:
    assert list(split_text("one two. three\n\nfour five", 20)) == ["one two. three", "four five"]
    assert list(split_text("one two. three four", 12)) == ["one two.", "three four"]
    assert list(split_text("onetwo three", 8)) == ["onetwo", "three"]
    assert list(split_text("abcdefgh", 3)) == ["abc", "def", "gh"]


def test_split_text_keeps_the_layout_inside_a_piece() -> None:
    assert list(split_text("a:\n    b\n\n" + "c" * 30, 30)) == ["a:\n    b", "c" * 30]


def test_text_file_gives_a_passage_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\ufefffirst line\nsecond line\n\n \nanother\r\n", encoding="utf-8")
    passages, bad = read(path)
    assert [p.text for p in passages] == ["first line\nsecond line", "another"]
    assert [p.id for p in passages] == [f"{path}#1", f"{path}#2"]
    assert [p.source for p in passages] == [f"{path}:1", f"{path}:5"]
    assert passages[1].metadata == {"file": str(path), "line": 5}
    assert bad == []


def test_line_that_is_not_utf8_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"good\n\nb\xffd\n\nalso good\n")
    passages, bad = read(path)
    assert [p.text for p in passages] == ["good", "also good"]
    assert bad[0].source == f"{path}:3"
    assert "UTF-8" in bad[0].why


def test_markdown_passages_carry_their_headings_and_do_not_cross_them(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text(
        "---\ntitle: x\n---\nIntro.\n\n# Install #\n\nOne.\n\nTwo.\n\n## Linux\n\n```\n# not a heading\n\ncode\n```\n\nUndo\n====\nLast.\n",
        encoding="utf-8",
    )
    passages, bad = read(path)
    assert [p.text for p in passages] == [
        "Intro.",
        "Install\n\nOne.\n\nTwo.",
        "Install > Linux\n\n```\n# not a heading\n\ncode\n```",
        "Undo\n\nLast.",
    ]
    assert [p.metadata["heading"] for p in passages] == ["", "Install", "Install > Linux", "Undo"]
    assert [p.metadata["line"] for p in passages] == [4, 8, 14, 22]
    assert bad == []


def test_markdown_blocks_are_packed_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("# H\n\n" + "\n\n".join(["word " * 5] * 4), encoding="utf-8")
    passages, _ = read(path, 60)
    assert len(passages) == 2
    assert all(len(p.text) <= 60 for p in passages)


def test_markdown_that_starts_with_a_rule_is_not_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("---\n\nText.\n", encoding="utf-8")
    assert [p.text for p in read(path)[0]] == ["Text."]


def test_jsonl_takes_ids_texts_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    lines = [
        {"id": "a", "text": "one", "lang": "en"},
        {"text": "two"},
        {"id": 7, "text": "three", "metadata": {"n": 1}, "m": 2},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    passages, bad = read(path)
    assert [(p.id, p.text, p.metadata) for p in passages] == [
        ("a", "one", {"lang": "en"}),
        (f"{path}#3", "two", {}),
        ("7", "three", {"n": 1, "m": 2}),
    ]
    assert bad == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "a"}', "text must be"),
        ('{"text": "  "}', "text must be"),
        ('{"id": true, "text": "a"}', "id must be"),
        ('{"id": "", "text": "a"}', "id must be"),
        ('{"text": "a", "n": NaN}', "NaN is not JSON"),
        ('{"text": "a", "n": 1e999}', "number inf"),
        ('{"text": "a", "n": 12345678901234567891}', "write it as a string"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"text": "a", "\\ud800": 1}', "surrogate"),
        (json.dumps({"id": "é" * 129, "text": "a"}), "256 bytes"),
        ('{"text": "a", "n": ' + "[" * 40 + "]" * 40 + "}", "nested deeper than 32"),
        ('{"text": "a", "n": ' + "[" * 9999 + "]" * 9999 + "}", "not JSON"),
    ],
)
def test_bad_jsonl_line_is_reported_with_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text('{"text": "good"}\n' + line + '\n{"text": "good too"}\n', encoding="utf-8")
    passages, bad = read(path)
    assert [p.text for p in passages] == ["good", "good too"]
    assert [b.source for b in bad] == [f"{path}:2"]
    assert why in bad[0].why


def test_jsonl_line_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n{"text": "good"}\n')
    passages, bad = read(path)
    assert [p.id for p in passages] == [f"{path}#2"]
    assert bad[0].source == f"{path}:1"


def test_find_files_walks_directories_in_order_and_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.jsonl", "sub/d.py", ".hidden/e.txt", ".f.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list(find_files([tmp_path])) == [tmp_path / "a.md", tmp_path / "b.txt", tmp_path / "sub/c.jsonl"]
    assert list(find_files([tmp_path / "sub/d.py"])) == [tmp_path / "sub/d.py"]


def test_id_stem_is_normal_and_fits() -> None:
    assert id_stem(Path("./docs/../docs/a.md")) == "docs/a.md"
    assert id_stem(Path("x" * 300)).startswith("sha256:")
    assert id_stem(Path("bad\udcff.txt")).startswith("sha256:")


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a passage")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")

    assert [path.name for path in find_files([tmp_path])] == ["gone.txt", "notes.txt"]  # the first is then reported
    assert [path.name for path in find_files([tmp_path / "pipe.txt"])] == ["pipe.txt"]  # asked for by name


def test_a_directory_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "notes.txt").write_text("a passage")
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)

    assert [path.name for path in find_files([tmp_path])] == ["notes.txt", "shut"]


def test_a_compressed_file_is_refused_once_and_as_that(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(gzip.compress(b"\n".join(b"line %d" % i for i in range(5000))))

    assert read(path) == ([], [BadLine(str(path), "compressed with gzip; unpack it first")])
