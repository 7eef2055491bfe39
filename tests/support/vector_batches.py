"""Vectors as the client meets them on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np

from whit.client import _convert as convert
from whit.contract.vectors import Encoding, encode
from whit.v1 import vector_pb2

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def wire(matrix: np.ndarray[Any, Any], encoding: Encoding) -> vector_pb2.VectorBatch:
    e = encode(matrix.astype(np.float32), encoding)
    return vector_pb2.VectorBatch(
        encoding=convert.ENCODING_TO_WIRE[encoding], count=e.count, dimension_count=e.dimension_count, data=e.data,
        scales=e.scales,
    )  # fmt: skip
