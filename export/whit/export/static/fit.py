"""Fits a table to a teacher's vectors of whole texts: knowledge distillation of a bag of rows.

A student's vector is the sum of the rows of a text's tokens, so what a row should be is what all texts that hold the token
agree on. That is learned, from unlabelled text, by Adam on the cosine to the teacher (as in Wada et al., "Static Word
Embeddings for Sentence Semantic Representation", EMNLP 2025, and Minish Lab's Tokenlearn); weights of tokens come out as
lengths of rows. numpy and scipy's sparse products; no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whit.export.checkpoint import FloatArray
from whit.runtime.packing import TokenIds

if TYPE_CHECKING:
    from scipy import sparse  # of the [static] extra: loaded by what computes with it

_DECAY, _SQUARE_DECAY = 0.9, 0.99
_WARMUP_STEPS = 50
_FAMILIAR = 100  # a token seen more often teaches no more than one seen so often
_PRIOR_COUNT = 3  # what the map says weighs as much as so many occurrences


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How a table is fitted."""

    epochs: int = 8
    learning_rate: float = 5e-3  # with rows of length about 0.1 at the start
    batch_size: int = 1024
    similarity_weight: float = 0.0  # of how the texts of a batch lie to each other, beside where they lie
    seed: int = 0


def bags(sequences: Sequence[TokenIds], token_count: int) -> sparse.csr_matrix:
    """A row a text, float32 [len(sequences), token_count]: each token's share of it."""
    from scipy import sparse

    counts = np.array([len(ids) for ids in sequences])
    shares = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate([np.zeros(0, np.int64), *sequences])
    return sparse.csr_matrix((shares, columns, starts), shape=(len(sequences), token_count))


def fit(
    texts: sparse.csr_matrix,
    targets: FloatArray,
    table: FloatArray,
    options: FitOptions,
    progress: Callable[[int, int, float], None] = lambda step, total, cosine: None,
) -> FloatArray:
    """Fits ``table`` so that ``texts @ table`` points where ``targets`` do.

    Args:
        texts: what ``bags`` gives, [N, V].
        targets: the teacher's vectors of the texts, of length 1, [N, D].
        table: where to start, [V, D].
        options: epochs, rates, seed.
        progress: is told steps done, steps in all, and the batch's mean cosine.

    Returns:
        float32 [V, D]. Rows of tokens in no text are left as they were.
    """
    table = table.copy()
    mean, square = np.zeros_like(table), np.zeros_like(table)
    rng = np.random.default_rng(options.seed)
    size = min(options.batch_size, len(targets))
    total, step = options.epochs * (len(targets) // size), 0
    for _ in range(options.epochs):
        order = rng.permutation(len(targets))
        for start in range(0, len(order) - size + 1, size):
            step += 1
            batch = order[start : start + size]
            rows, gradient, cosine = _gradient(texts[batch], targets[batch], table, options.similarity_weight)
            # Adam on the rows that occur: the others have no gradient, and most rows do not occur in a batch.
            mean[rows] = mean[rows] * _DECAY + gradient * (1 - _DECAY)
            square[rows] = square[rows] * _SQUARE_DECAY + gradient**2 * (1 - _SQUARE_DECAY)
            rate = options.learning_rate * min(1.0, step / _WARMUP_STEPS) * max(0.02, 1 - step / total)
            table[rows] -= rate * mean[rows] / (np.sqrt(square[rows]) + 1e-9)
            progress(step, total, cosine)
    return table


def _gradient(
    texts: sparse.csr_matrix, targets: FloatArray, table: FloatArray, similarity_weight: float
) -> tuple[TokenIds, FloatArray, float]:
    """Ids of the rows that occur, the gradient of the loss in them, and the batch's mean cosine."""
    from scipy import sparse

    rows, columns = np.unique(texts.indices, return_inverse=True)
    batch = sparse.csr_matrix((texts.data, columns, texts.indptr), shape=(len(targets), len(rows)))
    sums = batch @ table[rows]
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    units = sums / lengths
    slope = -targets
    if similarity_weight:
        error = units @ units.T - targets @ targets.T
        slope = slope + (4 * similarity_weight / len(targets)) * (error @ units)
    slope = (slope - (slope * units).sum(axis=1, keepdims=True) * units) / (lengths * len(targets))
    return rows, np.asarray(batch.T @ slope, np.float32), float((units * targets).sum(axis=1).mean())


def steady(table: FloatArray, start: FloatArray, counts: TokenIds) -> FloatArray:
    """Draws the rows of rare tokens to what a linear map from ``start`` says of them, the more the rarer they are.

    The map is learned on tokens that were fitted. A row that no text speaks for would else keep a length of its own
    choosing among rows that found theirs, and one seen once would know a single text by heart.

    Args:
        table: the fitted rows, [V, D].
        start: where fitting began, [V, D].
        counts: how often each token occurs, [V].
    """
    weights = np.minimum(counts, _FAMILIAR)[:, None].astype(np.float64)
    moment = start.T @ (start * weights)
    moment += np.eye(len(moment)) * max(np.trace(moment), 1e-12) / len(moment) * 1e-2
    said = start @ np.linalg.solve(moment, start.T @ (table * weights))
    share = counts[:, None] / (counts[:, None] + _PRIOR_COUNT)
    return np.asarray(share * table + (1 - share) * said, np.float32)
