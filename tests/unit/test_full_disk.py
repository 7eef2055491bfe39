"""A disk that fills up while a checkpoint or a package is written: one line that says so, and nothing left behind."""

from pathlib import Path

import pytest

from tests.support.disk import full_disk
from tests.support.tiny import write_checkpoint
from whit.cli.app import run


@pytest.mark.parametrize(
    "command",
    [["trim"], ["export", "--dtype", "float32"], ["export", "--dtype", "int8"]],
    ids=["trim", "export float32", "export int8"],
)
def test_a_full_disk(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(tmp_path / "tiny")
    with full_disk():
        code = run([*command, str(source), "--out", str(tmp_path / "out")])

    printed = capsys.readouterr()
    assert code == 1
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "out cannot be written" in printed.err
    assert "free space or choose another --out" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
