"""Two to four bits a dimension: a vector as a sum of sign planes, each with a scale of its own. Knows numpy and nothing else.

``x ~ sum_k scale[k] * sign_k`` with ``sign_k`` of -1 and +1. The first plane holds the signs of x, each further one those of what
is left, as in BEBR (S. Li et al., "Binary Embedding-based Retrieval at Tencent", 2023); then signs and scales are refitted in
turns, each the best for the other (C. Xu et al., "Alternating Multi-bit Quantization", arXiv:1802.00150). A row is coded by
itself: no codebook, no calibration, and codes made apart can be compared.

A dot product with a query needs the planes only: ``sum_k scale[k] * (sum of q where bit k is 1, minus the rest)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]

MIN_BITS = 2
MAX_BITS = 4

# Beyond this the error shrinks by less than a thousandth of itself a turn.
_TURNS = 5
# Rows worked on at once: bounds memory, and does not change a bit of the result.
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ResidualCodes:
    """Codes of a matrix.

    Attributes:
        planes: uint8 [count, bits, ceil(dimension_count / 8)]: sign bits, most significant bit first, 1 for +1; bits left
            over in a last byte are 0.
        scales: float32 [count, bits].
        dimension_count: columns of the matrix.
    """

    planes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    dimension_count: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, scales included."""
        return self.planes[:1].nbytes + self.scales[:1].nbytes if len(self.planes) else 0


def residual_codes(vectors: FloatMatrix, bits: int) -> ResidualCodes:
    """Codes of float32 [count, dimension_count] with ``bits`` bits a dimension. A row's codes depend on the row alone.

    Raises:
        ValueError: not a 2-d float32 array, or ``bits`` is not 2 to 4.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"vectors must be float32 [count, dimension_count], got {vectors.dtype} {vectors.shape}")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"bits must be {MIN_BITS} to {MAX_BITS}, got {bits}; use the encoding binary for one, int8 for eight"
        )
    count, dimension_count = vectors.shape
    planes = np.empty((count, bits, (dimension_count + 7) // 8), np.uint8)
    scales = np.empty((count, bits), np.float32)
    for start in range(0, count, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        signs, scales[block] = _fit(vectors[block].astype(np.float64), bits)
        planes[block] = np.packbits(signs > 0, axis=2)
    return ResidualCodes(planes, scales, dimension_count)


def residual_vectors(codes: ResidualCodes) -> FloatMatrix:
    """The vectors that codes stand for, float32 [count, dimension_count].

    Raises:
        ValueError: planes and scales do not fit each other or ``dimension_count``.
    """
    count, bits = codes.scales.shape
    expected = (count, bits, (codes.dimension_count + 7) // 8)
    if codes.planes.shape != expected or codes.planes.dtype != np.uint8:
        raise ValueError(f"planes must be uint8 {list(expected)}, got {codes.planes.dtype} {list(codes.planes.shape)}")
    signs = np.unpackbits(codes.planes, axis=2, count=codes.dimension_count).astype(np.float32) * 2 - 1
    return _combine(signs, codes.scales)


def _fit(x: NDArray[np.float64], bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signs [count, bits, dims] and scales [count, bits] of rows [count, dims]."""
    signs, scales = np.empty((len(x), bits, x.shape[1])), np.empty((len(x), bits))
    rest = x.copy()
    for k in range(bits):
        signs[:, k] = np.where(rest > 0, 1.0, -1.0)
        scales[:, k] = np.abs(rest).mean(axis=1)
        rest -= scales[:, k, None] * signs[:, k]
    for _ in range(_TURNS):
        scales = _best_scales(x, signs, scales)
        signs = _best_signs(x, scales)
    return signs, scales


def _best_scales(
    x: NDArray[np.float64], signs: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares for given signs; a row of which two planes are alike (a constant one, say) keeps its scales."""
    gram = np.einsum("nkd,nld->nkl", signs, signs)  # whole numbers: exact in any order
    right = (signs * x[:, None]).sum(axis=2)
    solvable = np.linalg.det(gram) > 0.5  # a whole number too
    found = scales.copy()
    found[solvable] = np.linalg.solve(gram[solvable], right[solvable][:, :, None])[:, :, 0]
    return found


def _best_signs(x: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest of the 2^bits sums of +-scales for each value."""
    bits = scales.shape[1]
    choices = np.where(np.arange(2**bits)[:, None] >> np.arange(bits) & 1, 1.0, -1.0)  # [2^bits, bits]
    levels = _combine(choices.T[None], scales)  # [count, 2^bits]
    order = np.argsort(levels, axis=1, kind="stable")
    ascending = np.take_along_axis(levels, order, axis=1)
    edges = (ascending[:, 1:] + ascending[:, :-1]) / 2
    place = np.zeros(x.shape, np.intp)
    for edge in edges.T:
        place += x > edge[:, None]
    chosen = np.take_along_axis(order, place, axis=1)
    return np.moveaxis(choices[chosen], 2, 1)


def _combine(signs: NDArray[np.floating], scales: NDArray[np.floating]) -> NDArray[np.floating]:
    """sum_k scales[:, k] * signs[:, k], plane by plane: a matrix product would round by the number of rows."""
    total = scales[:, 0, None] * signs[:, 0]
    for k in range(1, scales.shape[1]):
        total = total + scales[:, k, None] * signs[:, k]
    return total
