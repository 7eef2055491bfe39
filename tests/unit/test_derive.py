"""Derived checkpoint folders."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.export.checkpoint import CheckpointError, read_checkpoint
from whit.export.derive import derive_checkpoint, read_steps


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


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match="was not made by whit"):
        derive_checkpoint(source, source, tensors=read_checkpoint(source).tensors, step={})
    assert read_checkpoint(source)
