"""Vectors as they are kept: what is left of a score when documents are stored in fewer bytes.

The bytes are those of ``whit.contract``: every figure goes through the codec that the server or a client would use.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from whit.contract.vectors import Encoding, decode, encode, truncate
from whit.export.evaluate.metrics import DEPTH, FloatMatrix, cosines, ranking

RESCORED = 8  # candidates by bits for each result that is wanted; chosen on dev splits, more changes little (docs/encodings.md)


class Code(enum.StrEnum):
    """Ways of keeping vectors: the wire encodings, and bits with int8 behind them."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BITS_4 = "4bit"
    BITS_3 = "3bit"
    BITS_2 = "2bit"
    BINARY = "binary"
    BINARY_RESCORED = "binary+rescore"

    @property
    def bits(self) -> int | None:
        """Bits a dimension of a residual code; None for the others."""
        return None if self is Code.BINARY_RESCORED else Encoding(self).bits or None

    def row_bytes(self, dimension_count: int) -> int:
        """Bytes that a search reads for each document: of ``BINARY_RESCORED`` the bits, for int8 is read for few."""
        encoding = Encoding.BINARY if self is Code.BINARY_RESCORED else Encoding(self)
        return encoding.row_bytes(dimension_count) + 4 * encoding.scale_count


def recoded(vectors: FloatMatrix, code: Code, centre: FloatMatrix | None = None) -> FloatMatrix:
    """Encodes and decodes: what a reader of the bytes has, rows of length 1, float32 [count, dims].

    Args:
        vectors: rows of length 1.
        code: not ``BINARY_RESCORED``, which is two codes.
        centre: float32 [dims], taken away before encoding: for binary and residual codes, whose signs then split the vectors in
            halves. Residual codes get it back after decoding; for bits there is nothing to give it back to.
    """
    if code.bits:
        centre = np.zeros(vectors.shape[1], np.float32) if centre is None else centre
        return _unit(decode(encode(vectors - centre, Encoding(code))) + centre)
    if code is Code.BINARY and centre is not None:
        vectors = vectors - centre
    return _unit(decode(encode(vectors, Encoding(code))))


def pair_similarity(
    first: FloatMatrix, second: FloatMatrix, code: Code, centre: FloatMatrix | None = None
) -> NDArray[np.float64]:
    """Cosines [n] of the rows of two matrices of unit vectors [n, dims], both kept in ``code``."""
    code = Code.BINARY if code is Code.BINARY_RESCORED else code  # a single pair has no candidates
    return cosines(recoded(first, code, centre), recoded(second, code, centre))


def search(
    documents: FloatMatrix,
    queries: FloatMatrix,
    code: Code,
    centre: FloatMatrix | None = None,
    depth: int = DEPTH,
    rescored: int = RESCORED,
) -> NDArray[np.intp]:
    """Indices [queries, depth] of the best documents, kept in ``code``, for queries as the model gave them.

    Only ``BINARY`` compares bits with bits. ``BINARY_RESCORED`` does so for ``rescored * depth`` candidates and orders these by
    their int8 codes and the query itself.
    """
    if code not in (Code.BINARY, Code.BINARY_RESCORED):
        return ranking(recoded(documents, code, centre), queries, depth)
    kept, asked = recoded(documents, Code.BINARY, centre), recoded(queries, Code.BINARY, centre)
    if code is Code.BINARY:
        return ranking(kept, asked, depth)
    candidates = np.sort(ranking(kept, asked, rescored * depth), axis=1)
    stored = recoded(documents, Code.INT8)
    best = np.empty((len(queries), min(depth, len(documents))), np.intp)
    for row, (query, among) in enumerate(zip(queries, candidates, strict=True)):
        best[row] = among[ranking(stored[among], query[None], depth)[0]]
    return best


def _unit(vectors: FloatMatrix) -> FloatMatrix:
    return truncate(vectors, vectors.shape[1], normalize=True)
