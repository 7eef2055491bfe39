"""Derived checkpoint folders."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import check_out, derive_checkpoint, read_steps
from whit.export.errors import CheckpointError
from whit.export.prune.layers import LayerOptions, drop_layers
from whit.export.prune.speedup import SpeedupOptions, prune_to_speedup
from whit.export.prune.width import WidthOptions, prune_width
from whit.export.rotation import RotateOptions, rotate
from whit.export.vocabulary import TrimOptions, trim_vocabulary
from whit.export.whitening import WhitenOptions, whiten


def test_a_derived_folder_reads_back_with_its_new_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    before = read_checkpoint(source)
    doubled = {name: 2 * array for name, array in before.tensors.items()}
    derive_checkpoint(
        source, tmp_path / "out", tensors=doubled, config={"layer_norm_eps": 1e-6}, step={"step": "double"}
    )
    derive_checkpoint(tmp_path / "out", tmp_path / "out", tensors=doubled, step={"step": "again"})

    after = read_checkpoint(tmp_path / "out")
    assert all(np.array_equal(after.tensors[name], array) for name, array in doubled.items())
    assert after.config["layer_norm_eps"] == 1e-6
    assert after.tokenizer.to_str() == before.tokenizer.to_str()
    assert [step["step"] for step in read_steps(tmp_path / "out")] == ["double", "again"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_a_damaged_list_of_steps_is_named(content: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "whit.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"whit.json does not hold the steps"):
        drop_layers(source, tmp_path / "out", LayerOptions(keep=(0,)))


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_what_comes_of_a_read_only_folder_can_be_written(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    for path in (source, *source.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    drop_layers(source, tmp_path / "out" / "short", LayerOptions(keep=(0,)))
    whiten(source, tmp_path / "out" / "white", WhitenOptions())

    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "out").rglob("*"))


def test_the_folder_that_the_command_runs_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_layers(write_checkpoint(tmp_path / "source"), tmp_path / "out", LayerOptions(keep=(0, 1)))
    monkeypatch.chdir(tmp_path / "out")

    for step in (
        lambda: drop_layers(Path(), Path(), LayerOptions(keep=(0,))),
        lambda: compile_checkpoint(tmp_path / "source", Path(), ExportOptions(dtype="float32")),
    ):
        with pytest.raises(
            CheckpointError, match="is where the command runs, and would be replaced; choose another --out"
        ):
            step()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match="was not made by whit"):
        derive_checkpoint(source, source, tensors=read_checkpoint(source).tensors, step={})
    assert read_checkpoint(source)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere

    with pytest.raises(CheckpointError, match=r"read-only\); choose another --out"):
        check_out(tmp_path / "a" / "b", tmp_path / "source")


@pytest.mark.parametrize("place", ["source/out", "source/a/b", "."])
def test_a_place_in_the_checkpoint_or_around_it_is_refused(place: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")

    with pytest.raises(CheckpointError, match=r"one in the other; choose another --out"):
        drop_layers(source, tmp_path / place, LayerOptions(keep=(0,)))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert read_checkpoint(source)


def test_a_place_below_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear reader")

    with pytest.raises(CheckpointError, match=r"file is a file\); choose another --out"):
        check_out(tmp_path / "file" / "a" / "b", tmp_path / "source")


@pytest.mark.parametrize(
    "step",
    [
        lambda source, out: drop_layers(source, out, LayerOptions(keep=(0,))),
        lambda source, out: prune_width(source, out, WidthOptions(inner_count=8)),
        lambda source, out: prune_to_speedup(source, out, SpeedupOptions(target=1.5)),
        lambda source, out: trim_vocabulary(source, out, TrimOptions()),
        lambda source, out: whiten(source, out, WhitenOptions()),
        lambda source, out: rotate(source, out, RotateOptions()),
    ],
    ids=["drop-layers", "narrow", "speedup", "trim", "whiten", "rotate"],
)
def test_long_steps_ask_before_they_begin(tmp_path: Path, step: Callable[[Path, Path], object]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear reader")

    with pytest.raises(CheckpointError, match="was not made by whit"):
        step(tmp_path / "no-checkpoint", tmp_path / "out")
