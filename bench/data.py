"""Where the evaluation sets of the benchmarks are: ``WHIT_EVAL_DATA``, a folder with ``sts/`` and ``retrieval/``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from whit.export.evaluate import Retrieval, Sts, read_retrieval, read_sts

DATA = Path(os.environ.get("WHIT_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def require() -> None:
    """Ends the program with a hint where the sets are missing."""
    if not (DATA / "sts").is_dir():
        raise SystemExit(f"{DATA} has no evaluation sets; set WHIT_EVAL_DATA to a folder with sts/ and retrieval/")


def stsb(split: str) -> Sts:
    """STS Benchmark: ``train``, ``dev`` or ``test``."""
    return read_sts(DATA / "sts" / f"stsb-{split}.tsv")


def titles(name: str) -> list[str]:
    """The titles of a collection's documents, those that have one."""
    lines = (DATA / "retrieval" / name / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [title for line in lines if (title := json.loads(line).get("title"))]


def collection(name: str, split: str) -> Retrieval:
    """A small retrieval collection (``cranfield``, ``cisi``, ``medline``), with the queries that ``split`` judges."""
    return read_retrieval(DATA / "retrieval" / name, split)
