"""Evaluation sets and their metrics: STS (Spearman) and BEIR-style retrieval (nDCG@10). Reads files, runs no model."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]

DATA = Path(os.environ.get("WHIT_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Sts:
    """Sentence pairs with a human score each."""

    first: Sequence[str]
    second: Sequence[str]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A corpus, queries and their judgements: query index -> {document index: gain}."""

    documents: Sequence[str]
    queries: Sequence[str]
    judgements: Mapping[int, Mapping[int, float]]


def read_sts(split: str, data: Path = DATA) -> Sts:
    """STS Benchmark, ``dev`` or ``test``."""
    with (data / "sts" / f"stsb-{split}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    scores = np.array([float(row["score"]) for row in rows])
    return Sts([row["sentence1"] for row in rows], [row["sentence2"] for row in rows], scores)


def read_retrieval(name: str, split: str, data: Path = DATA) -> Retrieval:
    """A collection in BEIR layout, with the queries that ``split`` judges."""
    folder = data / "retrieval" / name
    documents = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {
        q["_id"]: q["text"]
        for q in map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    }
    place = {document["_id"]: i for i, document in enumerate(documents)}
    gains: dict[str, dict[int, float]] = defaultdict(dict)
    with (folder / "qrels" / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            gains[row["query-id"]][place[row["corpus-id"]]] = float(row["score"])
    corpus = [f"{document['title']} {document['text']}".strip() for document in documents]
    return Retrieval(corpus, [texts[q] for q in gains], dict(enumerate(gains.values())))


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, ties averaged."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def sts_score(first: FloatMatrix, second: FloatMatrix, scores: NDArray[np.float64]) -> float:
    """Spearman x 100 of the cosines of unit vectors [n, d] against the scores [n]."""
    return 100 * spearman((first.astype(np.float64) * second).sum(axis=1), scores)


def ndcg_at_10(documents: FloatMatrix, queries: FloatMatrix, judgements: Mapping[int, Mapping[int, float]]) -> float:
    """nDCG@10 x 100 with linear gain, averaged over queries; unjudged documents count 0."""
    similarity = queries.astype(np.float64) @ documents.T.astype(np.float64)
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for query, gains in judgements.items():
        best = np.argsort(-similarity[query], kind="stable")[:10]
        found = np.array([gains.get(int(document), 0.0) for document in best])
        ideal = np.sort(np.array(list(gains.values())))[::-1][:10]
        values.append((found * discounts[: len(found)]).sum() / (ideal * discounts[: len(ideal)]).sum())
    return 100 * float(np.mean(values))


def _ranks(x: NDArray[np.floating]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
