"""Product quantisation of a table: rows cut into stretches, each stretch the number of the nearest of 256 centroids.

Jégou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011; the length of a row is kept apart, as in
FastText.zip (arXiv:1612.03651). Tables of static packages and word embeddings of graphs are stored so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray
from whit.export.errors import OptionError

CENTROID_COUNT = 256
_ROUNDS = 12  # of k-means; more change nothing that can be measured
_MOST_ROWS = 1 << 16  # that k-means learns from: 256 for each centroid
_ROWS_AT_A_TIME = 1024  # whose distances stay in the cache

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Products:
    """A table as codes: row ``r`` is about ``lengths[r] * centroids[m, codes[r, m]]``, one stretch m after the other."""

    codes: NDArray[np.uint8]  # [rows, M]
    centroids: NDArray[np.int8]  # [M, 256, width / M]
    lengths: FloatArray  # [rows], not negative


def product_quantise(
    table: FloatArray,
    code_count: int,
    weights: Weights,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Products:
    """Learns centroids for the stretches of a table, and codes its rows.

    Every code should say as much as the next: columns from PCA, which hold ever less, want a random turn before.

    Args:
        table: float32 [rows, width].
        code_count: codes a row; divides the width.
        weights: [rows], how much each row's error matters; positive somewhere.
        seed: of k-means.
        progress: is told stretches done, and how many there are.
    """
    rng = np.random.default_rng(seed)
    lengths = np.maximum(np.linalg.norm(table, axis=1), 1e-12)
    stretches = np.split(table / lengths[:, None], code_count, axis=1)
    importance = weights * np.square(lengths, dtype=np.float64)
    found = []
    for done, stretch in enumerate(stretches, start=1):
        found.append(_cluster(stretch, importance, rng))
        progress(done, code_count)
    exact, codes = np.stack([c for c, _ in found]), np.stack([k for _, k in found], axis=1)
    step = max(float(np.abs(exact).max()), 1e-30) / 127
    centroids = np.rint(exact / step).astype(np.int8)
    # What the codes do not say of a row they say of its length too: take the one that fits best.
    decoded = centroids[np.arange(code_count), codes].reshape(len(table), -1).astype(np.float32)
    fitted = np.einsum("ij,ij->i", decoded, table) / np.maximum(np.einsum("ij,ij->i", decoded, decoded), 1)
    return Products(codes.astype(np.uint8), centroids, np.maximum(fitted, 0).astype(np.float32))


def check_code_count(name: str, count: int, width_name: str, width: int) -> None:
    """Refuses a number of codes that does not divide a row.

    Raises:
        CheckpointError: says what would do.
    """
    if count < 1 or width % count:
        usual = next(n for n in range(max(width // 8, 1), 0, -1) if width % n == 0)
        raise OptionError(name, f"must divide {width_name} ({width}), got {count}; {usual} is usual")


def _cluster(rows: FloatArray, weights: Weights, rng: np.random.Generator) -> tuple[FloatArray, NDArray[np.int64]]:
    """Weighted k-means: centroids [256, d] and the number of each row's nearest."""
    chance = weights / weights.sum()
    sample = rows
    if len(rows) > _MOST_ROWS:  # drawn by weight, so that all weigh the same
        sample = rows[rng.choice(len(rows), _MOST_ROWS, p=chance)]
        weights = chance = np.full(_MOST_ROWS, 1 / _MOST_ROWS)
    first = rng.choice(len(sample), CENTROID_COUNT, replace=bool(np.count_nonzero(chance) < CENTROID_COUNT), p=chance)
    centroids = sample[first].copy()
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centroids)
        share = np.bincount(nearest, weights, CENTROID_COUNT)
        for column in range(rows.shape[1]):
            total = np.bincount(nearest, weights * sample[:, column], CENTROID_COUNT)
            np.divide(total, share, out=total, where=share > 0)
            centroids[:, column] = np.where(share > 0, total, centroids[:, column])
    return centroids, _nearest(rows, centroids)


def _nearest(rows: FloatArray, centroids: FloatArray) -> NDArray[np.int64]:
    """The number of each row's nearest centroid: the least of ``|c|^2 - 2 r c``."""
    found = np.empty(len(rows), np.int64)
    double, squares = -2 * centroids.T, np.square(centroids).sum(axis=1)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        stop = start + _ROWS_AT_A_TIME
        distances = rows[start:stop] @ double
        distances += squares
        distances.argmin(axis=1, out=found[start:stop])
    return found
