"""Vectors as bytes: one codec for each wire encoding, the same on both sides. Knows numpy and nothing else.

Layouts are row-major, little-endian and unpadded (see ``vector.proto``). int8 is symmetric with one scale a row:
``code = rint(x / scale)``, ``scale = max|x| / 127``, so codes keep the cosine and nothing ever saturates or wraps. Two to four bits
are sums of sign planes, each with a scale (``residual``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.contract.residual import ResidualCodes, residual_codes, residual_vectors

FloatMatrix = NDArray[np.float32]

_FLOAT32 = np.dtype(np.float32)
_LITTLE_ENDIAN = np.dtype("<f4")


class Encoding(enum.StrEnum):
    """The wire encodings, by the names that the SDK and the command line use."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"
    BITS_2 = "2bit"
    BITS_3 = "3bit"
    BITS_4 = "4bit"

    @property
    def bits(self) -> int:
        """Sign planes of a residual code; 0 for the others."""
        return {Encoding.BITS_2: 2, Encoding.BITS_3: 3, Encoding.BITS_4: 4}.get(self, 0)

    @property
    def scale_count(self) -> int:
        """Scales that each row has beside its codes."""
        return 1 if self is Encoding.INT8 else self.bits

    def row_bytes(self, dimension_count: int) -> int:
        """Bytes of one row of ``dimension_count`` values, its scales not counted."""
        match self:
            case Encoding.FLOAT32:
                return 4 * dimension_count
            case Encoding.FLOAT16:
                return 2 * dimension_count
            case Encoding.INT8:
                return dimension_count
            case Encoding.BINARY:
                return (dimension_count + 7) // 8
            case Encoding.BITS_2 | Encoding.BITS_3 | Encoding.BITS_4:
                return self.bits * ((dimension_count + 7) // 8)


@dataclass(slots=True)
class EncodedVectors:
    """A matrix as bytes. ``scales`` has ``Encoding.scale_count`` float32 a row, row after row."""

    encoding: Encoding
    count: int
    dimension_count: int
    data: bytes
    scales: bytes = b""


def encode(vectors: FloatMatrix, encoding: Encoding) -> EncodedVectors:
    """Encodes ``vectors``, float32 [count, dimension_count].

    Raises:
        ValueError: not a 2-d float32 array.
    """
    if vectors.ndim != 2 or vectors.dtype != _FLOAT32:
        raise ValueError(f"vectors must be float32 [count, dimension_count], got {vectors.dtype} {vectors.shape}")
    count, dimension_count = vectors.shape
    scales = b""
    match encoding:
        case Encoding.FLOAT32:
            data = vectors.astype(_LITTLE_ENDIAN, copy=False).tobytes()
        case Encoding.FLOAT16:
            data = vectors.astype("<f2").tobytes()
        case Encoding.INT8:
            codes, row_scales = int8_codes(vectors)
            data, scales = codes.tobytes(), row_scales.astype("<f4", copy=False).tobytes()
        case Encoding.BINARY:
            data = binary_codes(vectors).tobytes()
        case Encoding.BITS_2 | Encoding.BITS_3 | Encoding.BITS_4:
            residual = residual_codes(vectors, encoding.bits)
            data, scales = residual.planes.tobytes(), residual.scales.astype("<f4", copy=False).tobytes()
    return EncodedVectors(encoding, count, dimension_count, data, scales)


def decode(encoded: EncodedVectors) -> FloatMatrix:
    """Decodes to float32 [count, dimension_count]; BINARY gives +1 and -1. FLOAT32 is a read-only view of the bytes.

    Raises:
        ValueError: the bytes do not have the length that count, dimension_count and encoding imply.
    """
    check_size(encoded)
    shape = (encoded.count, encoded.dimension_count)
    match encoded.encoding:
        case Encoding.FLOAT32:
            return np.frombuffer(encoded.data, "<f4").reshape(shape).astype(np.float32, copy=False)
        case Encoding.FLOAT16:
            return np.frombuffer(encoded.data, "<f2").reshape(shape).astype(np.float32)
        case Encoding.INT8:
            scales = np.frombuffer(encoded.scales, "<f4").astype(np.float32)
            return np.frombuffer(encoded.data, np.int8).reshape(shape) * scales[:, None]
        case Encoding.BINARY:
            bits = np.unpackbits(native(encoded).view(np.uint8), axis=1, count=encoded.dimension_count)
            return bits.astype(np.float32) * 2 - 1
        case Encoding.BITS_2 | Encoding.BITS_3 | Encoding.BITS_4:
            scales = np.frombuffer(encoded.scales, "<f4").astype(np.float32).reshape(-1, encoded.encoding.bits)
            return residual_vectors(ResidualCodes(native(encoded).view(np.uint8), scales, encoded.dimension_count))


def native(encoded: EncodedVectors) -> NDArray[np.generic]:
    """The codes as numpy sees them, a read-only view.

    float32, float16, int8 [count, dims]; BINARY uint8 [count, ceil(dims/8)]; residual codes uint8 [count, bits, ceil(dims/8)].
    """
    check_size(encoded)
    dtype = {Encoding.FLOAT32: "<f4", Encoding.FLOAT16: "<f2", Encoding.INT8: "i1"}.get(encoded.encoding, "u1")
    return np.frombuffer(encoded.data, dtype).reshape(encoded.count, *_row_shape(encoded))


def _row_shape(encoded: EncodedVectors) -> tuple[int, ...]:
    """Shape of a row as numpy sees it. Not left to ``reshape(count, -1)``, which fails on a matrix without rows."""
    byte_count = (encoded.dimension_count + 7) // 8
    match encoded.encoding:
        case Encoding.BINARY:
            return (byte_count,)
        case Encoding.BITS_2 | Encoding.BITS_3 | Encoding.BITS_4:
            return (encoded.encoding.bits, byte_count)
        case _:
            return (encoded.dimension_count,)


def int8_codes(vectors: FloatMatrix) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric codes int8 [count, dims] in [-127, 127] and their scales float32 [count]; a zero row has scale 0."""
    scales = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    codes = np.clip(np.rint(vectors / safe[:, None]), -127, 127).astype(np.int8)
    return codes, scales


def binary_codes(vectors: FloatMatrix) -> NDArray[np.uint8]:
    """Sign bits uint8 [count, ceil(dims/8)], most significant bit first, 1 where the value is > 0."""
    return np.packbits(vectors > 0, axis=1)


def truncate(vectors: FloatMatrix, dimension_count: int, *, normalize: bool) -> FloatMatrix:
    """The first ``dimension_count`` columns, scaled to length 1 if ``normalize`` (a zero row stays zero).

    The order truncate, then normalise, then encode is fixed (Matryoshka representation learning, arXiv:2205.13147).

    Raises:
        ValueError: ``dimension_count`` is not in 1..columns.
    """
    if not 1 <= dimension_count <= vectors.shape[1]:
        raise ValueError(f"dimension_count must be 1 to {vectors.shape[1]}, got {dimension_count}")
    cut = np.ascontiguousarray(vectors[:, :dimension_count])
    if not normalize:
        return cut
    # Summed row by row in float64: the result must not depend on how many rows there are.
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut, dtype=np.float64))
    norms[norms == 0] = 1
    return np.asarray(cut / norms[:, None], np.float32)


def check_size(encoded: EncodedVectors) -> None:
    """Raises ``ValueError`` unless data and scales have the length that the other fields imply."""
    expected = encoded.count * encoded.encoding.row_bytes(encoded.dimension_count)
    if encoded.count < 0 or encoded.dimension_count < 0 or len(encoded.data) != expected:
        raise ValueError(
            f"data must have {expected} bytes for {encoded.count} x {encoded.dimension_count} {encoded.encoding}, "
            f"got {len(encoded.data)}"
        )
    expected = 4 * encoded.encoding.scale_count * encoded.count
    if len(encoded.scales) != expected:
        raise ValueError(f"scales must have {expected} bytes for {encoded.encoding}, got {len(encoded.scales)}")
