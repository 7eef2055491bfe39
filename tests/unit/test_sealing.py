"""How finished folders take their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.export.sealing import publish


def test_the_new_takes_the_place_of_the_old(tmp_path: Path) -> None:
    new, out = tmp_path / "scratch" / "new", tmp_path / "out"
    for folder in (new, out):
        folder.mkdir(parents=True)
        (folder / folder.name).touch()

    publish(new, out)

    assert [path.name for path in out.iterdir()] == ["new"]


def test_the_old_stays_where_the_new_cannot_come(tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.mkdir()
    (out / "old").touch()

    with pytest.raises(FileNotFoundError):
        publish(scratch / "was never made", out)

    assert [path.name for path in out.iterdir()] == ["old"]
