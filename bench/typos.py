"""Packages under typos: STS-B with every long word of the second sentence misspelt, and Cranfield with its queries so.

python -m bench.typos PACKAGE... [--split test] [--seed 0] [--out bench/results/typos.json]

A word of five letters or more has two neighbouring letters swapped or one left out, and which, is drawn by the seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import data
from bench.packages import Contender
from whit.export.evaluate import ndcg_at_10, sts_score
from whit.export.static.typos import misspell


def misspelt(texts: Sequence[str], seed: int) -> list[str]:
    """Texts with a slip in every word of five letters or more; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [misspell(text, rng) for text in texts]


def measure(packages: Sequence[Path], split: str, seed: int) -> list[dict[str, Any]]:
    """Size and scores of each package, of text as it is and misspelt."""
    sts, cranfield = data.stsb(split), data.collection("cranfield", split)
    second, queries = misspelt(sts.second, seed), misspelt(cranfield.queries, seed)
    rows: list[dict[str, Any]] = []
    for path in packages:
        contender = Contender(path)
        first, documents = contender.embed(sts.first), contender.embed(cranfield.documents)
        row: dict[str, Any] = {"package": path.name, "size_bytes": contender.package.size_bytes}
        for name, sentences, asked in (("", sts.second, cranfield.queries), ("_misspelt", second, queries)):
            row[f"sts_b{name}"] = sts_score(first, contender.embed(sentences), sts.scores)
            found = ndcg_at_10(documents, contender.embed(asked), cranfield.judgements)
            row[f"cranfield_ndcg_at_10{name}"] = found
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data.require()
    rows = measure(arguments.packages, arguments.split, arguments.seed)
    if arguments.out:
        content = {"split": arguments.split, "seed": arguments.seed, "packages": rows}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
