"""From vectors to scores x 100: Spearman of cosines, nDCG@10."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]

DEPTH = 10
_BLOCK_QUERIES = 64  # similarities in memory at a time: this many rows of the corpus's length


def sts_score(first: FloatMatrix, second: FloatMatrix, scores: NDArray[np.float64]) -> float:
    """Spearman x 100 of the cosines of unit vectors [n, d] against the scores [n]."""
    return 100 * spearman(cosines(first, second), scores)


def cosines(first: FloatMatrix, second: FloatMatrix) -> NDArray[np.float64]:
    """Dot products [n] of the rows of two matrices [n, d]: cosines, if the rows have length 1."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", first, second, dtype=np.float64)
    return found


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, ties averaged; 0 where one side is constant."""
    return correlation(ranks(a), ranks(b))


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size else 0.0


def ranks(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def ranks_of_ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for a sample of ranks: they are halves of whole numbers, which can be counted instead of sorted."""
    places = np.rint(2 * x).astype(np.intp)
    counts = np.bincount(places)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return found


def ndcg_at_10(documents: FloatMatrix, queries: FloatMatrix, judgements: Mapping[int, Mapping[int, float]]) -> float:
    """nDCG@10 x 100 with linear gain, averaged over queries; unjudged documents count 0."""
    return 100 * float(ndcg_by_query(ranking(documents, queries, DEPTH), judgements).mean())


def ranking(documents: FloatMatrix, queries: FloatMatrix, depth: int) -> NDArray[np.intp]:
    """Indices [queries, depth] of the documents with the largest dot products, best first, equal ones in their order."""
    wide = documents.astype(np.float64).T
    best = np.empty((len(queries), min(depth, len(documents))), np.intp)
    for start in range(0, len(queries), _BLOCK_QUERIES):
        block = slice(start, start + _BLOCK_QUERIES)
        best[block] = np.argsort(-(queries[block].astype(np.float64) @ wide), axis=1, kind="stable")[:, :depth]
    return best


def ndcg_by_query(best: NDArray[np.intp], judgements: Mapping[int, Mapping[int, float]]) -> NDArray[np.float64]:
    """nDCG@10 in 0..1 of each judged query, in the order of ``judgements``.

    Args:
        best: document indices [queries, 10 or fewer], best first.
        judgements: query index -> {document index: gain}; each query has a gain above 0.
    """
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    values = []
    for query, gains in judgements.items():
        found = np.array([gains.get(int(document), 0.0) for document in best[query, :DEPTH]])
        ideal = np.sort(np.array(list(gains.values())))[::-1][:DEPTH]
        values.append((found * discounts[: len(found)]).sum() / (ideal * discounts[: len(ideal)]).sum())
    return np.array(values)


def recall_by_query(best: NDArray[np.intp], judgements: Mapping[int, Mapping[int, float]]) -> NDArray[np.float64]:
    """Share of each query's judged documents that are in its row of ``best``, 0..1, in the order of ``judgements``."""
    return np.array([np.isin(list(gains), best[query]).mean() for query, gains in judgements.items()])
