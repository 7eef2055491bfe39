"""Rounds the weights of a linear layer to int8 codes.

Two things make these codes better than each weight's nearest one:

- *No saturation.* CPUs without VNNI multiply u8 by s8 in pairs and add the pair in 16 bits, which overflows for large
  weights (onnxruntime's quantisation guide, "U8S8"). We bound each pair of neighbouring weights so that no input can
  overflow it. The same package then gives the same integers on every CPU, at a fraction of the error that the usual
  7-bit weights cost.
- *Compensation* (GPTQ, arXiv:2210.17323): rows are rounded one after the other, and what one row's rounding does to the
  output is taken back by the rows still to come, as far as the layer's inputs go together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# 255 * (w1 + w2) stays below 2**15 for weights of one sign; opposite signs cannot overflow.
PAIR_LIMIT = 128
_LARGEST = 127
_SCALE_GRID = np.linspace(0.85, 1.25, 9, dtype=np.float32)
# Rows whose corrections are applied to all later rows together: a matter of speed only.
_BLOCK = 128
# Share of the mean variance that every input channel is given on top: no channel is ever taken for free.
_DAMPING = 1e-3


def nearest_codes(weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each weight's nearest saturation-free code.

    Args:
        weight: float32 [in, out].

    Returns:
        codes, whole numbers in float32 [in, out], in [-127, 127], where rows 2i and 2i+1 add up to at most 128 in absolute
        value if they have one sign; scales float32 [out], each the one of a grid that leaves the least squared error.
    """
    base = np.abs(weight).max(axis=0) / np.float32(_LARGEST)
    base = np.where(base > 0, base, np.float32(1))
    best_scales = base
    best_errors = np.full(weight.shape[1], np.inf, np.float32)
    for factor in _SCALE_GRID:
        scales = base * factor
        difference = codes_at(weight, scales) * scales - weight
        errors = np.einsum("ij,ij->j", difference, difference)
        best_scales = np.where(errors < best_errors, scales, best_scales)
        best_errors = np.minimum(errors, best_errors)
    return codes_at(weight, best_scales), best_scales


def _positive(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same with all eigenvalues above zero: sums in float32 put some below where a mean is far above its spread."""
    try:
        np.linalg.cholesky(moment)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(moment)
        return np.asarray((vectors * np.maximum(values, 1e-6 * values[-1])) @ vectors.T, np.float64)
    return moment


def compensated_codes(weight: FloatArray, scales: FloatArray, moment: NDArray[np.float64]) -> FloatArray:
    """Saturation-free codes that keep the layer's output, rather than each weight, close.

    Args:
        weight: float32 [in, out].
        scales: float32 [out], of the codes.
        moment: float64 [in, in], covariance of the inputs that the layer will see, their own rounding included.

    Returns:
        codes, as those of ``nearest_codes``.
    """
    # Pairs of much variance first, while there are rows left that can make up for them.
    even = len(weight) + len(weight) % 2
    variance = np.zeros(even)
    variance[: len(weight)] = np.diag(moment)
    pairs = np.argsort(-variance.reshape(-1, 2).sum(axis=1), kind="stable")
    order = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
    order = order[order < len(weight)]
    damped = moment[np.ix_(order, order)] + _DAMPING * max(variance.mean(), 1e-12) * np.eye(len(order))
    # Row j: what a unit of error in row j asks of each later row (the paper's Cholesky form, section 3.3).
    spread = np.linalg.cholesky(np.linalg.inv(_positive(damped))).T.astype(np.float32)

    left = (weight[order] / scales).astype(np.float32)
    codes = np.zeros_like(left)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        errors = np.zeros((end - start, left.shape[1]), np.float32)
        for row in range(start, end):
            first = codes[row - 1] if order[row] % 2 else None
            following = left[row + 1] if not order[row] % 2 and order[row] + 1 < len(weight) else None
            codes[row] = _row_codes(left[row], first, following)
            errors[row - start] = (left[row] - codes[row]) / spread[row, row]
            left[row + 1 : end] -= spread[row, row + 1 : end, None] * errors[row - start]
        left[end:] -= spread[start:end, end:].T @ errors
    found = np.empty_like(codes)
    found[order] = codes
    return found


def _row_codes(row: FloatArray, first: FloatArray | None, following: FloatArray | None) -> FloatArray:
    """Codes of one row: the second of its pair, after the codes ``first``, or the first, before ``following``."""
    if first is not None:
        lowest = np.where(first < 0, -PAIR_LIMIT - first, -_LARGEST)
        highest = np.where(first > 0, PAIR_LIMIT - first, _LARGEST)
        return np.clip(np.rint(row), np.maximum(lowest, -_LARGEST), np.minimum(highest, _LARGEST))
    if following is not None:
        excess = np.maximum(np.abs(row + following) - PAIR_LIMIT, 0)  # each of the two gives way by half
        row = row - np.sign(row) * np.where(np.sign(row) == np.sign(following), excess / 2, 0)
    return np.clip(np.rint(row), -_LARGEST, _LARGEST)


def codes_at(weight: FloatArray, scales: FloatArray) -> FloatArray:
    """Each weight's nearest saturation-free code [in, out] at given scales [out]."""
    codes = weight * np.reciprocal(scales)
    np.rint(codes, out=codes)
    np.clip(codes, -_LARGEST, _LARGEST, out=codes)
    return limit_pairs(codes)


def limit_pairs(codes: FloatArray) -> FloatArray:
    """Brings each pair of rows (2i, 2i+1) of one sign down to a sum of PAIR_LIMIT, taking evenly from both."""
    if len(codes) % 2:
        return limit_pairs(np.concatenate([codes, np.zeros_like(codes[:1])]))[:-1]
    pairs = codes.reshape(-1, 2, codes.shape[1])
    first, second = pairs[:, 0], pairs[:, 1]
    # Of opposite signs, the sum is at most 127 and nothing is over.
    over = np.nonzero(np.abs(first + second) > PAIR_LIMIT)
    a, b = first[over], second[over]
    excess = np.abs(a + b) - PAIR_LIMIT
    from_first = np.ceil(excess / 2)
    limited = pairs.copy()
    limited[:, 0][over] = a - np.sign(a) * from_first
    limited[:, 1][over] = b - np.sign(b) * (excess - from_first)
    return limited.reshape(codes.shape)
