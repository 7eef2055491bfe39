"""Parity of float32 packages of every family and pooling with the checkpoint's own framework: ``python -m bench.parity``.

Needs the ``[train]`` extra. Writes ``bench/results/parity.json`` and ``docs/parity.md``; tests/golden/test_parity.py asserts the same on fewer texts.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from tests.support import parity
from tests.support.reference import find_checkpoint

RESULT = Path(__file__).parent / "results" / "parity.json"
PAGE = Path(__file__).parents[1] / "docs" / "parity.md"
TEXT_COUNT = 1000
FEWER = 200  # for the poolings that the reference computes one text at a time
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "tokenizers", "numpy")


def measure(folder: Path, model: str, pooling: str, texts: list[str]) -> dict[str, str | float | bool]:
    """One row of the table."""
    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))
    print(f"{model:18} {pooling:5} min cosine {found.min_cosine:.10f}  max difference {found.max_abs_difference:.1e}")
    return {
        "model": model,
        "pooling": pooling,
        "text_count": len(texts),
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
            if pooling == "pooler" and model in parity.WITHOUT_POOLER:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows.append(
                    measure(
                        parity.save_model(Path(folder), model, pooling=pooling),
                        model,
                        pooling,
                        texts[: _count(pooling)],
                    )
                )
    reference = find_checkpoint()
    if reference is not None:
        rows.append(measure(reference, "all-MiniLM-L6-v2", "mean", texts))
    content = {
        "command": "python -m bench.parity",
        "machine": platform.machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "required": {"min_cosine": parity.MIN_COSINE, "max_abs_difference": parity.MAX_ABS_DIFFERENCE},
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(content), encoding="utf-8")


def _count(pooling: str) -> int:
    return TEXT_COUNT if pooling in ("mean", "cls", "max") else FEWER


def page(content: Mapping[str, Any]) -> str:
    """``docs/parity.md``."""
    versions = ", ".join(f"{name} {number}" for name, number in content["packages"].items())
    required = content["required"]
    lines = [
        "# Parity",
        "",
        "Made by `python -m bench.parity`; do not edit.",
        "",
        "This page compares float32 packages with the checkpoint's own framework, for every family of models and every pooling.",
        f"{sum(row['holds'] for row in content['rows'])} of {len(content['rows'])} rows hold: the vectors are the same, within the limits below.",
        "",
        "- The weights are random, those of all-MiniLM-L6-v2 apart; nothing in them is zero and no gain is one, so that no part",
        "  can be left out unnoticed.",
        "- The texts have from one word to more than the model's limit. Each side tokenises them by itself.",
        "- The reference is sentence-transformers. For `pooler`, `first_last` and `ditto`, which it lacks, it is the papers'",
        "  definitions on what transformers returns. DistilBERT and ELECTRA have no pooler.",
        "",
        f"Required: cosine ≥ {required['min_cosine']}, and no value off by more than {required['max_abs_difference']:.0e} of the vector's length.",
        "",
        "| model | pooling | texts | least cosine | largest difference | |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        verdict = "holds" if row["holds"] else "**fails**"
        lines.append(
            f"| {row['model']} | `{row['pooling']}` | {row['text_count']} | {row['min_cosine']:.9f} | "
            f"{row['max_abs_difference']:.1e} | {verdict} |"
        )
    return "\n".join([*lines, "", f"{versions}; {content['machine']}.", ""])


if __name__ == "__main__":
    main()
