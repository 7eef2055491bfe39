"""``whit static`` and ``whit words`` from the command line: a package that verifies, and one line where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import whit.cli
from tests.support import packages

pytest.importorskip("scipy")

WORDS = ["the", "of", "and", "to", "in", "is", "that", "it", "for", "was"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(300)}
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
    return path


def test_a_student_is_made_and_verifies(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "static"
    arguments = [
        "static",
        str(packages.package()),
        "--texts",
        str(corpus),
        "--out",
        str(out),
        "--dimension-count",
        "16",
    ]

    assert whit.cli.main([*arguments, "--cache", str(tmp_path / "cache"), "--name", "small", "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert (report["name"], report["dtype"]) == ("small", "int8")
    assert report["cosine"] > report["start_cosine"]
    assert whit.cli.main(["verify", str(out)]) == 0
    assert "verified" in capsys.readouterr().out
    assert whit.cli.main(["inspect", str(out)]) == 0
    assert "static" in capsys.readouterr().out


def test_a_teacher_that_is_none_is_one_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["static", str(tmp_path / "nowhere"), "--texts", str(corpus), "--out", str(tmp_path / "static")]

    assert whit.cli.main([*arguments, "--cache", str(tmp_path / "cache")]) == 1

    captured = capsys.readouterr()
    assert "nowhere is not a folder" in captured.err.splitlines()[-1]
    assert not (tmp_path / "static").exists()


def test_word_vectors_become_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "vectors.txt", tmp_path / "my words"
    path.write_text("the 1 0 2\nof 0 1 1\nhouse 1 1 0\n", encoding="utf-8")

    assert whit.cli.main(["words", str(path), "--out", str(out)]) == 0

    said = capsys.readouterr().out
    assert "3, all lower case" in said
    assert f"next: whit verify '{out}', or whit serve --models '{out}'" in said
    assert whit.cli.main(["verify", str(out)]) == 0
