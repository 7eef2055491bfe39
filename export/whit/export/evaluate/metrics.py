"""From vectors to scores x 100: Spearman of cosines, nDCG@10."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]


def sts_score(first: FloatMatrix, second: FloatMatrix, scores: NDArray[np.float64]) -> float:
    """Spearman x 100 of the cosines of unit vectors [n, d] against the scores [n]."""
    return 100 * spearman(cosines(first, second), scores)


def cosines(first: FloatMatrix, second: FloatMatrix) -> NDArray[np.float64]:
    """Dot products [n] of the rows of two matrices [n, d]: cosines, if the rows have length 1."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", first, second, dtype=np.float64)
    return found


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, ties averaged; 0 where one side is constant."""
    a, b = ranks(a), ranks(b)
    if not np.ptp(a) or not np.ptp(b):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def ranks(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def ndcg_at_10(documents: FloatMatrix, queries: FloatMatrix, judgements: Mapping[int, Mapping[int, float]]) -> float:
    """nDCG@10 x 100 with linear gain, averaged over queries; unjudged documents count 0."""
    similarity = queries.astype(np.float64) @ documents.T.astype(np.float64)
    return 100 * float(ndcg_by_query(similarity, judgements).mean())


def ndcg_by_query(
    similarity: NDArray[np.floating], judgements: Mapping[int, Mapping[int, float]]
) -> NDArray[np.float64]:
    """nDCG@10 in 0..1 of each judged query, in the order of ``judgements``.

    Args:
        similarity: [queries, documents]; equal values rank in the order of the documents.
        judgements: query index -> {document index: gain}; each query has a gain above 0.
    """
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for query, gains in judgements.items():
        best = np.argsort(-similarity[query], kind="stable")[:10]
        found = np.array([gains.get(int(document), 0.0) for document in best])
        ideal = np.sort(np.array(list(gains.values())))[::-1][:10]
        values.append((found * discounts[: len(found)]).sum() / (ideal * discounts[: len(ideal)]).sum())
    return np.array(values)
