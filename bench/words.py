"""Word embeddings in fewer bytes: how far each way of storing them moves a checkpoint's vectors, all else left in float32.

python -m bench.words CHECKPOINT --corpus FILE [--out bench/results/words.json]

A way is a number of rows (all that some text can produce, or fewer that the words share as by ``whit trim --share``) and how a row is
stored. Two measures, neither of which needs labels: 1 minus the mean cosine to the checkpoint's own vectors, and how many of the ten titles
that its vectors find for each Cranfield title are found still. ``--out bench/results/words.json`` renews the table in
``docs/quantising.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import DATA, require, stsb
from bench.machine import describe
from bench.peers.report import write_table
from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.embed import embed
from whit.export.embedding import Rows, SharedRows, store_rows
from whit.export.encoder_graph import Head
from whit.export.families import encoder_weights
from whit.export.linear import Plan
from whit.export.texts import read_texts
from whit.export.vocabulary import TrimOptions, trim_vocabulary

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "words.json"
# Rows (None: all), dtype, product codes a row.
WAYS = [
    (None, "int8", 0),
    (None, "int4", 0),
    (None, "pq", 192),
    (None, "pq", 128),
    (None, "pq", 96),
    (25_000, "int8", 0),
    (22_500, "int4", 0),
    (22_500, "pq", 128),
    (16_000, "int8", 0),
    (16_000, "int4", 0),
    (16_000, "pq", 192),
]
_SENTENCES = 400  # of STS-B dev
_TITLE_DEPTH = 10
_LONGEST = 128  # tokens of a text that are read
_COUNTED_TEXTS = 20_000  # of the corpus, for how often each word occurs


def measure(source: Path, corpus: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """One row for each of ``WAYS``."""
    titles = [json.loads(line)["title"] for line in (DATA / "retrieval/cranfield/corpus.jsonl").open(encoding="utf-8")]
    texts = {"sentences": stsb("dev").first[:_SENTENCES], "titles": titles}
    counted = read_texts(corpus, limit=_COUNTED_TEXTS)
    wanted = dict(_embed(source, texts))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        trimmed: dict[int | None, Path] = {}
        for row_count, dtype, code_count in WAYS:
            if row_count not in trimmed:
                progress(f"trimming to {row_count or 'all'} rows")
                trimmed[row_count] = Path(scratch) / str(row_count)
                options = TrimOptions(corpus if row_count else None, row_count, share=row_count is not None)
                trim_vocabulary(source, trimmed[row_count], options)
            words = _stored(trimmed[row_count], dtype, code_count, counted)
            found = dict(_embed(trimmed[row_count], texts, Plan({}, words)))
            rows.append(
                {
                    "rows": _row_count(words),
                    "shared": isinstance(words, SharedRows),
                    "dtype": dtype,
                    "codes": code_count,
                    "bytes": _byte_count(words),
                    "distance": {k: 1 - float(np.sum(v * wanted[k], axis=1).mean()) for k, v in found.items()},
                    "same_10": _same_best(found["titles"], wanted["titles"]),
                }
            )
            progress(_line(rows[-1]))
    return {"texts": {name: len(each) for name, each in texts.items()}, "rows": rows}


def _embed(
    folder: Path, texts: Mapping[str, Sequence[str]], plan: Plan | None = None
) -> Iterator[tuple[str, FloatArray]]:
    checkpoint = read_checkpoint(folder)
    checkpoint.tokenizer.enable_truncation(_LONGEST)
    weights = encoder_weights(checkpoint)
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    for name, each in texts.items():
        ids = [np.array(e.ids, np.int64) for e in checkpoint.tokenizer.encode_batch_fast(list(each))]
        yield name, embed(weights, head, ids, plan)


def _stored(folder: Path, dtype: str, code_count: int, counted: Sequence[str]) -> Rows:
    checkpoint = read_checkpoint(folder)
    words = encoder_weights(checkpoint).words
    ids = np.concatenate([e.ids for e in checkpoint.tokenizer.encode_batch_fast(list(counted))])
    return store_rows(words, dtype, code_count=code_count, counts=np.bincount(ids, minlength=len(words)))


def _byte_count(rows: Rows) -> int:
    if isinstance(rows, np.ndarray):
        return rows.nbytes
    return sum(_byte_count(getattr(rows, field.name)) for field in dataclasses.fields(rows))


def _row_count(rows: Rows) -> int:
    if isinstance(rows, SharedRows):
        return _row_count(rows.rows)
    return len(rows) if isinstance(rows, np.ndarray) else len(getattr(rows, dataclasses.fields(rows)[0].name))


def _same_best(found: FloatArray, wanted: FloatArray) -> float:
    """Share of the ten nearest other texts that two sets of vectors have in common, in %."""
    best = []
    for vectors in (found, wanted):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        best.append(np.argpartition(-cosines, _TITLE_DEPTH, axis=1)[:, :_TITLE_DEPTH])
    return 100 * float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(*best, strict=True)])) / _TITLE_DEPTH


def _line(row: Mapping[str, Any]) -> str:
    stored = f"`pq`, {row['codes']} codes" if row["dtype"] == "pq" else f"`{row['dtype']}`"
    rows = f"{row['rows']:,}{', shared' if row['shared'] else ''}"
    distances = " | ".join(f"{row['distance'][name]:.4f}" for name in ("sentences", "titles"))
    return f"| {rows} | {stored} | {row['bytes'] / 1e6:.1f} | {distances} | {row['same_10']:.1f} |"


def markdown(content: Mapping[str, Any]) -> str:
    """The table."""
    lines = [
        "| rows | stored as | MB | 1 - cosine, sentences | 1 - cosine, titles | same ten titles, % |",
        "|---|---|---:|---:|---:|---:|",
        *map(_line, sorted(content["rows"], key=lambda row: -row["bytes"])),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes, prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--corpus", type=Path, required=True, help="what whit trim and the counts of words read")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    require()
    found = {
        "command": "python -m bench.words CHECKPOINT --corpus FILE",
        "machine": describe(),
        **measure(arguments.checkpoint, arguments.corpus, lambda line: print(line, flush=True)),
    }
    print(f"\n{markdown(found)}")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if arguments.out.resolve() == RESULT:
            write_table(markdown(found), ROOT / "docs" / "quantising.md", "words")


if __name__ == "__main__":
    main()
