"""Parity of float32 packages of every family and pooling with the checkpoint's own framework: ``python -m bench.parity``.

Needs the ``[train]`` extra. Writes ``bench/results/parity.json``; tests/golden/test_parity.py asserts the same on fewer texts.
"""

from __future__ import annotations

import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from transformers.utils import logging as transformers_logging

from tests.support import parity
from tests.support.reference import find_checkpoint

RESULT = Path(__file__).parent / "results" / "parity.json"
TEXT_COUNT = 1000
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "tokenizers", "numpy")


def measure(folder: Path, model: str, pooling: str, texts: list[str]) -> dict[str, str | float | bool]:
    """One row of the table."""
    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))
    print(f"{model:18} {pooling:5} min cosine {found.min_cosine:.10f}  max difference {found.max_abs_difference:.1e}")
    return {
        "model": model,
        "pooling": pooling,
        "min_cosine": found.min_cosine,
        "max_abs_difference": found.max_abs_difference,
        "holds": found.holds,
    }


def main() -> None:
    """Measures the tiny models of all families and, where it is installed, the reference model."""
    transformers_logging.disable_progress_bar()
    texts = parity.mixed_texts(TEXT_COUNT)
    rows = []
    for model in parity.MODELS:
        for pooling in parity.POOLINGS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(parity.save_model(Path(folder), model, pooling=pooling), model, pooling, texts))
    reference = find_checkpoint()
    if reference is not None:
        rows.append(measure(reference, "all-MiniLM-L6-v2", "mean", texts))
    content = {
        "command": "python -m bench.parity",
        "text_count": TEXT_COUNT,
        "machine": platform.machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "required": {"min_cosine": parity.MIN_COSINE, "max_abs_difference": parity.MAX_ABS_DIFFERENCE},
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
