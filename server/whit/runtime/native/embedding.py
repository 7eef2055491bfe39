"""Reads the look-up of embeddings that ``whit.export.embedding`` wrote back into a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.cursor import Cursor
from whit.runtime.native.parts import Rows, UnsupportedError

_UNPACK = ("Mul", "Floor", "Mul", "Add", "Sub", "Concat", "Reshape")


def read_rows(nodes: Cursor) -> Rows:
    """The table that the next nodes look rows up in.

    Raises:
        UnsupportedError: it is stored in a way that the kernels do not know.
    """
    places = None
    codes = _looked_up(nodes)
    if codes.ndim == 1 and codes.dtype == np.int32:
        places, codes = codes, _looked_up(nodes)
    if codes.dtype == np.float32:
        return Rows(codes, places=places)
    nodes.take("Cast")
    if codes.dtype == np.uint8:
        nodes.take("Add")
        centroids = _looked_up(nodes)
        nodes.take_all("Reshape", "Cast")
        lengths = _looked_up(nodes).reshape(-1).astype(np.float32)
        nodes.take_all("Cast", "Mul")
        return Rows(codes, lengths, places, centroids.reshape(codes.shape[1], -1, centroids.shape[1]))
    if codes.dtype != np.int8:
        raise UnsupportedError(f"embeddings stored as {codes.dtype}")
    if nodes.kind == "Gather":
        scales = _looked_up(nodes).reshape(-1)
        nodes.take("Mul")
        return Rows(codes, scales, places)
    nodes.take_all(*_UNPACK)
    packed = _looked_up(nodes).reshape(len(codes), -1).astype(np.float32)
    nodes.take_all("Cast", "Mul", "Reshape")
    return Rows(codes, packed, places)


def _looked_up(nodes: Cursor) -> NDArray[Any]:
    return nodes.constant(nodes.take("Gather").inputs[0])
