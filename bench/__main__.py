"""``make bench``: compiles the reference model to float32 and int8, measures both and the server, writes ``bench/results``.

The comparisons with other tools are their own commands, for they install those first: ``make bench-peers`` and ``make bench-servers``.

Needs the evaluation sets (``WHIT_EVAL_DATA``) and about a quarter of an hour on a quiet machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import packages, serving
from bench.data import require
from bench.reference import NAME, PACKAGES, checkpoint_folder
from whit.export.compile import ExportOptions, compile_checkpoint

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Compiles, measures, writes."""
    require()
    checkpoint = checkpoint_folder()
    for dtype in ("float32", "int8"):
        print(compile_checkpoint(checkpoint, PACKAGES / dtype, ExportOptions(dtype=dtype, name=NAME)), flush=True)
    _record("serving", lambda: serving.measure(PACKAGES / "int8", rounds=7, text_count=1500))
    _record("packages", lambda: packages.measure([PACKAGES / "float32", PACKAGES / "int8"], "test", rounds=7))


def _record(name: str, measure: Callable[[], dict[str, Any]]) -> None:
    content = {"command": "make bench", **measure()}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
