"""``whit prune``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tiny
from whit.cli.app import run
from whit.export.checkpoint import read_checkpoint
from whit.export.prune import speedup
from whit.export.prune.latency import LatencyTable
from whit.export.prune.speedup import SpeedupReport
from whit.export.prune.width import WidthReport


def test_layers_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out"

    assert run(["prune", str(source), "--out", str(out), "--keep-layers", "1"]) == 0

    assert "1 kept, 0 dropped" in capsys.readouterr().out
    assert read_checkpoint(out).config["num_hidden_layers"] == 1


def test_layers_by_number_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out"

    assert run(["prune", str(source), "--out", str(out), "--layers", "1", "--criterion", "entropy", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert len(found["kept"]) == 1
    assert len(found["scores"]) == 2


def test_columns_and_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out"

    assert run(["prune", str(source), "--out", str(out), "--intermediate-size", "48", "--heads", "2"]) == 0

    assert "cosine to before" in capsys.readouterr().out
    assert read_checkpoint(out).tensors["encoder.layer.0.intermediate.dense.weight"].shape == (48, 32)


def test_no_end_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out"

    assert run(["prune", str(source), "--out", str(out), "--no-end-token"]) == 0

    printed = capsys.readouterr().out
    assert "[SEP]; tokens of a calibration text" in printed
    assert "parameters" not in printed
    assert read_checkpoint(out).tokenizer.num_special_tokens_to_add(is_pair=False) == 1


@pytest.mark.parametrize(("reached", "missed"), [(1.4, True), (1.6, False)])
def test_a_speedup_that_was_missed_says_so(
    reached: float,
    missed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    width = WidthReport("obs", (1, 1), (16, 16), 0.9, 0.8, 200, 100)
    report = SpeedupReport(1.5, reached, "int8", width, LatencyTable(1.0, {}, {}))
    monkeypatch.setattr(speedup, "prune_to_speedup", lambda *_: report)

    assert run(["prune", "source", "--out", str(tmp_path / "out"), "--speedup", "1.5x"]) == 0
    assert ("slower than asked for" in capsys.readouterr().out) == missed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Give one of"),
        (["--layers", "1", "--heads", "2"], 2, "Give one of"),
        (["--layers", "few"], 2, "neither a number nor auto"),
        (["--keep-layers", "a"], 2, "0,2,4"),
        (["--speedup", "fast"], 2, "2x or 1.5"),
        (["--speedup", "1x"], 2, "over 1x"),
        (["--layers", "1", "--keep-layers", "0"], 2, "Give --keep-layers, which names them, or --layers"),
        (["--layers", "auto", "--criterion", "cosine"], 2, "auto goes with --criterion loss"),
        (["--heads", "2", "--criterion", "loss"], 2, "goes with --layers"),
        (["--heads", "2", "--reuse"], 2, "goes with --layers"),
        (["--heads", "2", "--dtype", "int8"], 2, "goes with --speedup"),
        (["--layers", "1", "--method", "obs"], 2, "goes with"),
        (["--no-end-token", "--method", "obs"], 2, "goes with"),
        (["--no-end-token", "--heads", "2"], 2, "Give one of"),
        (["--layers", "7"], 2, "whit prune: --layers must be from 1 to 2"),
        (["--keep-layers", "0,7"], 2, "whit prune: --keep-layers must name layers from 0 to 1"),
        (["--heads", "7"], 2, "whit prune: --heads must be from 1 to 4"),
        (["--intermediate-size", "999"], 2, "whit prune: --intermediate-size must be from 1 to 64"),
        (["--speedup", "900x"], 1, "cannot be met"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")

    assert run(["prune", str(source), "--out", str(tmp_path / "out"), *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
