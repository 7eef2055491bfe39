"""How a table is stored: float16, int8 with one step, or product-quantised. The reader is ``whit.runtime.static``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from whit.contract.manifest import KINDS, STATIC, TABLE_FILE
from whit.export.checkpoint import CheckpointError, FloatArray

DTYPES = tuple(KINDS[STATIC].dtypes)
CENTROID_COUNT = 256
_ROUNDS = 12  # of k-means; more change nothing that can be measured

Weights = NDArray[np.float64]


def write_table(folder: Path, table: FloatArray, dtype: str, stretch_count: int, weights: Weights, seed: int) -> None:
    """Writes ``table.safetensors``.

    Args:
        folder: the package to be.
        table: float32 [V, D].
        dtype: one of ``DTYPES``.
        stretch_count: ``pq``: codes a row; divides D.
        weights: [V], how much each row's error matters: how often the token occurs.
        seed: of k-means.
    """
    match dtype:
        case "float16":
            # Vectors have length 1, so a common factor is free: the longest row then has values of about 1.
            tensors: dict[str, NDArray[np.generic]] = {"rows": (table / np.abs(table).max()).astype(np.float16)}
        case "int8":
            step = best_step(table, weights)
            tensors = {"rows": _round(table / step), "step": np.array(step, np.float32)}
        case _:
            tensors = product_quantise(table, stretch_count, weights, seed)
    save_file(tensors, str(folder / TABLE_FILE))


def best_step(table: FloatArray, weights: Weights) -> float:
    """The step of symmetric int8 codes with the least weighted error: cutting off a few extreme values makes it finer."""
    values = np.abs(table)
    largest = float(values.max())
    sample = np.argsort(-weights)[:4096]
    errors = {}
    for share in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3):
        step = largest * share / 127
        error = table[sample] - _round(table[sample] / step) * np.float32(step)
        errors[step] = float((np.square(error).sum(axis=1) * weights[sample]).sum())
    return min(errors, key=errors.__getitem__)


def product_quantise(
    table: FloatArray, stretch_count: int, weights: Weights, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Codes, centroids and lengths of a table (Jégou et al., TPAMI 2011; lengths apart as in FastText.zip).

    Every code should say as much as the next: columns from PCA, which hold ever less, want a ``random_turn`` before.
    """
    rng = np.random.default_rng(seed)
    lengths = np.maximum(np.linalg.norm(table, axis=1), 1e-12)
    stretches = np.stack(np.split(table / lengths[:, None], stretch_count, axis=1))
    importance = weights * np.square(lengths, dtype=np.float64)
    found = [_cluster(stretch, importance, rng) for stretch in stretches]
    centroids, codes = np.stack([c for c, _ in found]), np.stack([k for _, k in found], axis=1)
    # What the codes do not say of a row they say of its length too: take the one that fits best.
    decoded = centroids[np.arange(stretch_count), codes].reshape(len(table), -1)
    fitted = (decoded * table).sum(axis=1) / np.maximum(np.square(decoded).sum(axis=1), 1e-12)
    step = np.abs(centroids).max() / 127
    scaled = np.maximum(fitted, 0) / lengths.max()
    return {
        "codes": codes.astype(np.uint8),
        "centroids": _round(centroids / step),
        "lengths": scaled.astype(np.float16),
    }


def random_turn(dimension_count: int, seed: int) -> FloatArray:
    """An orthogonal matrix: turning the whole space changes no cosine, and spreads what columns hold evenly."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension_count, dimension_count)))
    return turn.astype(np.float32)


def _cluster(rows: FloatArray, weights: Weights, rng: np.random.Generator) -> tuple[FloatArray, NDArray[np.int64]]:
    """Weighted k-means: centroids [256, d] and the number of each row's nearest."""
    chance = weights / weights.sum()
    first = rng.choice(len(rows), CENTROID_COUNT, replace=bool(np.count_nonzero(chance) < CENTROID_COUNT), p=chance)
    centroids = rows[first].copy()
    for _ in range(_ROUNDS):
        nearest = _nearest(rows, centroids)
        share = np.bincount(nearest, weights, CENTROID_COUNT)
        for column in range(rows.shape[1]):
            total = np.bincount(nearest, weights * rows[:, column], CENTROID_COUNT)
            np.divide(total, share, out=total, where=share > 0)
            centroids[:, column] = np.where(share > 0, total, centroids[:, column])
    return centroids, _nearest(rows, centroids)


def _nearest(rows: FloatArray, centroids: FloatArray) -> NDArray[np.int64]:
    distances = np.square(centroids).sum(axis=1) - 2 * (rows @ centroids.T)
    return np.asarray(distances.argmin(axis=1), np.int64)


def _round(values: FloatArray) -> NDArray[np.int8]:
    return np.clip(np.rint(values), -127, 127).astype(np.int8)


def check_storage(dtype: str, dimension_count: int, stretch_count: int) -> None:
    """Refuses a way of storing that does not exist or does not divide.

    Raises:
        CheckpointError: says what would do.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "pq" and (stretch_count < 1 or dimension_count % stretch_count):
        raise CheckpointError(
            f"code_count must divide dimension_count ({dimension_count}), got {stretch_count}; {dimension_count // 8} is usual"
        )
