"""Vectors by their direction: what cosine similarity sees of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_LEAST_LENGTH = 1e-12  # a row of zeros stays one


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Each row of float32 [n, d] divided by its length; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _LEAST_LENGTH), np.float32)


def row_cosines(first: FloatArray, second: FloatArray) -> FloatArray:
    """Cosine of each row of the one [n, d] with the same row of the other: [n]; 0 where one is zero."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.maximum(lengths, _LEAST_LENGTH), np.float32)
