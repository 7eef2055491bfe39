"""Vectors as rows of the database: (scale, blob) for each point. Pure functions.

The scale of int8 codes has a column of its own, for only reading needs it: a cosine does not. The scales of residual codes
follow the codes in the blob: without them there is no vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whit.contract.vectors import EncodedVectors, Encoding

Row = tuple[float | None, bytes]


def blob_bytes(storage: Encoding, dimension_count: int) -> int:
    """Bytes of a point's vector in the database, the scale column not counted."""
    return storage.row_bytes(dimension_count) + 4 * storage.bits


def to_rows(encoded: EncodedVectors) -> list[Row]:
    """A row for each vector."""
    storage, count = encoded.encoding, encoded.count
    data, scales = encoded.data, [None] * count
    if storage.bits:
        codes = np.frombuffer(data, np.uint8).reshape(count, storage.row_bytes(encoded.dimension_count))
        data = np.hstack([codes, np.frombuffer(encoded.scales, np.uint8).reshape(count, 4 * storage.bits)]).tobytes()
    elif encoded.scales:
        scales = np.frombuffer(encoded.scales, "<f4").tolist()
    size = blob_bytes(storage, encoded.dimension_count)
    return [(scale, data[row * size : (row + 1) * size]) for row, scale in enumerate(scales)]


def from_rows(rows: Sequence[Row], storage: Encoding, dimension_count: int) -> EncodedVectors:
    """What ``to_rows`` was given, of blobs that have ``blob_bytes`` each."""
    data, scales = b"".join(blob for _, blob in rows), b""
    if storage.bits:
        blobs = np.frombuffer(data, np.uint8).reshape(len(rows), blob_bytes(storage, dimension_count))
        size = storage.row_bytes(dimension_count)
        data, scales = blobs[:, :size].tobytes(), blobs[:, size:].tobytes()
    elif storage.scale_count:
        scales = np.array([scale for scale, _ in rows], "<f4").tobytes()
    return EncodedVectors(storage, len(rows), dimension_count, data, scales)
