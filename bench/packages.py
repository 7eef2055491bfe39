"""Packages beside each other: quality (STS-B, Cranfield) and speed (one thread, interleaved rounds, ratios to the first).

python -m bench.packages FLOAT_PACKAGE INT8_PACKAGE... [--split test] [--rounds 5] [--out bench/results/packages.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data import collection, stsb
from bench.machine import describe
from whit.export.evaluate import FloatMatrix, ndcg_at_10, sts_score
from whit.runtime import open_encoder, open_package, open_tokenizer


class Contender:
    """A package in process, one thread."""

    def __init__(self, directory: Path) -> None:
        self.package = open_package(directory)
        self.tokenizer, self.encoder = open_tokenizer(self.package), open_encoder(self.package)

    def embed(self, texts: Sequence[str], limit: int | None = None) -> FloatMatrix:
        """Vectors of texts, cut at ``limit`` tokens."""
        limit = min(limit or self.package.manifest.max_token_count, self.package.manifest.max_token_count)
        return self.encoder.encode([self.tokenizer.cut(ids, limit) for ids in self.tokenizer.encode(texts)])


def quality(contender: Contender, split: str) -> dict[str, float]:
    """STS-B Spearman and Cranfield nDCG@10 on a split."""
    sts, cranfield = stsb(split), collection("cranfield", split)
    return {
        "sts_b": sts_score(contender.embed(sts.first), contender.embed(sts.second), sts.scores),
        "cranfield_ndcg_at_10": ndcg_at_10(
            contender.embed(cranfield.documents), contender.embed(cranfield.queries), cranfield.judgements
        ),
    }


def speeds(contenders: Sequence[Contender], rounds: int) -> list[dict[str, Any]]:
    """Texts/s, tokenising included, for short texts and for abstracts cut at 256 tokens; contenders in turns."""
    sts, cranfield = stsb("dev"), collection("cranfield", "dev")
    sets = {
        "short": [*sts.first, *sts.second][:1000],
        "tokens_256": [d for d in cranfield.documents if len(d) > 1200][:60],
    }
    found: list[dict[str, list[float]]] = [{name: [] for name in sets} for _ in contenders]
    for _ in range(rounds):
        for name, texts in sets.items():
            for contender, row in zip(contenders, found, strict=True):
                start = time.perf_counter()
                contender.embed(texts, 256)
                row[name].append(len(texts) / (time.perf_counter() - start))
    base = found[0]
    return [
        {
            f"{name}_{key}": value
            for name in sets
            for key, value in (
                ("texts_per_s", statistics.median(row[name])),
                ("ratio", statistics.median(a / b for a, b in zip(row[name], base[name], strict=True))),
            )
        }
        for row in found
    ]


def measure(packages: Sequence[Path], split: str, rounds: int) -> dict[str, Any]:
    """Size, quality and speed of each package; ratios are to the first."""
    contenders = [Contender(path) for path in packages]
    rows = []
    for path, contender, speed in zip(packages, contenders, speeds(contenders, rounds), strict=True):
        size = contender.package.size_bytes
        rows.append({"package": path.name, "size_bytes": size, **quality(contender, split), **speed})
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    return {"machine": describe(), "split": split, "rounds": rounds, "packages": rows}


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.packages, arguments.split, arguments.rounds)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
