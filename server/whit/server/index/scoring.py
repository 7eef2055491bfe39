"""Cosines and the best of them. Pure functions on arrays; knows nothing of disks, graphs or threads.

A score depends on the query and the stored vector alone, never on what was compared beside them: matrix products choose
candidates, and float64 sums row by row then score the few that count. Equal vectors so get equal scores, in every path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whit.contract.vectors import Encoding, FloatMatrix, decode
from whit.server.index.rows import blob_bytes, from_rows

# As stored, [count, dims]; int8 without the scale, which a cosine does not see; residual codes decoded.
Stored = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]

_DTYPES = {Encoding.FLOAT32: "<f4", Encoding.FLOAT16: "<f2", Encoding.INT8: "i1"}
# How far the float32 product of two unit vectors may lie from their cosine; observed for 4,096 dimensions: 1e-6.
_SLACK = 5e-5


class Candidate(NamedTuple):
    """A point with its score. Sorts best first, then by id; ``loss`` is the score, negated."""

    loss: float
    id: str
    key: int


@dataclass(frozen=True, slots=True)
class Block:
    """Some stored vectors with their keys and ids."""

    keys: NDArray[np.int64]  # [count]
    ids: Sequence[str]
    rows: Stored
    inverse_lengths: NDArray[np.float32]  # [count]

    def __len__(self) -> int:
        return len(self.ids)


def decode_rows(
    rows: Sequence[tuple[int, str, bytes]], storage: Encoding, dimension_count: int
) -> tuple[NDArray[np.int64], Stored]:
    """Keys int64 [count] and vectors as stored [count, dims] of (key, id, vector) rows.

    Raises:
        ValueError: a vector does not have the length that storage and dimension count imply.
    """
    size = blob_bytes(storage, dimension_count)
    for _, id_, vector in rows:
        if len(vector) != size:
            raise ValueError(f"the vector of point {id_!r} has {len(vector)} bytes instead of {size}")
    keys = np.array([key for key, _, _ in rows], np.int64)
    if storage.bits:
        return keys, decode(from_rows([(None, vector) for _, _, vector in rows], storage, dimension_count))
    data = b"".join(vector for _, _, vector in rows)
    return keys, np.frombuffer(data, _DTYPES[storage]).reshape(-1, dimension_count)


def make_block(rows: Sequence[tuple[int, str, bytes]], storage: Encoding, dimension_count: int) -> Block:
    """A block of (key, id, vector) rows.

    Raises:
        ValueError: as ``decode_rows``.
    """
    keys, vectors = decode_rows(rows, storage, dimension_count)
    return Block(keys, [id_ for _, id_, _ in rows], vectors, (1 / lengths(vectors)).astype(np.float32))


def lengths(vectors: Stored) -> NDArray[np.float64]:
    """Euclidean length of each row of [count, dims]."""
    wide: NDArray[np.float64] = vectors.astype(np.float64)
    sizes: NDArray[np.float64] = np.sqrt((wide * wide).sum(axis=1))
    return sizes


def unit(vectors: Stored) -> FloatMatrix:
    """Rows of [count, dims], none of them zero, scaled to length 1: float32."""
    scaled: NDArray[np.float64] = vectors.astype(np.float64) / lengths(vectors)[:, None]
    return scaled.astype(np.float32)


def cosines(rows: Stored, query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row of [count, dims] with ``query`` [dims]: float32 [count] in [-1, 1], each from its row alone."""
    wide, query64 = rows.astype(np.float64), query.astype(np.float64)
    products = (wide * query64).sum(axis=1)
    scale = np.sqrt((wide * wide).sum(axis=1) * (query64 * query64).sum())
    scores: NDArray[np.float32] = np.clip(products / scale, -1, 1).astype(np.float32)
    return scores


def score(block: Block, indexes: NDArray[np.intp], query: NDArray[np.float32]) -> list[Candidate]:
    """The named rows of a block as candidates for one query, in no order."""
    scores = cosines(block.rows[indexes], query)
    return [
        Candidate(-value, block.ids[index], int(block.keys[index]))
        for index, value in zip(indexes.tolist(), scores.tolist(), strict=True)
    ]


def best(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """The ``limit`` best, each once, best first, equal scores by id."""
    return sorted(set(candidates))[:limit]


def merge(found: list[list[Candidate]], block: Block, queries: FloatMatrix, limit: int) -> None:
    """Compares every row of ``block`` with every query, unit float32 [queries, dims], and updates ``found``.

    ``found`` holds the ``limit`` best candidates so far for each query, best first.
    """
    products = (queries @ block.rows.astype(np.float32, copy=False).T) * block.inverse_lengths
    for number, row in enumerate(products):
        floor = -1.0
        if len(row) > limit:
            floor = float(np.partition(row, len(row) - limit)[len(row) - limit])
        if len(found[number]) >= limit:
            floor = max(floor, -found[number][limit - 1].loss)
        indexes = np.flatnonzero(row >= floor - _SLACK)
        if len(indexes):
            found[number] = best(found[number] + score(block, indexes, queries[number]), limit)
