"""How an embedding table is stored, and how the graph looks up its rows: float32, int8, or four bits a value.

Four bits are block-wise, as weights are kept elsewhere (Dettmers & Zettlemoyer, "The case for 4-bit precision",
arXiv:2212.09720). onnxruntime has an operator for them (GatherBlockQuantized), but early versions lack it and others take
eight times as long for it; plain operators take as long as its quick ones and are everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import CheckpointError
from whit.export.graph import FLOAT, Graph

EMBEDDING_BITS = (4, 8)

_BLOCK = 128  # values of a row that share a scale, at most
# The largest value of a block need not be met exactly: clipping it a little makes all others more exact.
_SCALE_GRID = np.linspace(0.6, 1.05, 10, dtype=np.float32)
_ROWS_AT_A_TIME = 4096
# With a few rows twice, as any table has, looking up their places is not worth it.
_MOST_DISTINCT = 0.9


def emit_rows(g: Graph, table: NDArray[np.float32], ids: str, bits: int) -> str:
    """Appends the look-up of rows: ``ids`` [T] to float32 [T, width]. Rows that tokens share are stored once.

    Args:
        g: the graph.
        table: float32 [rows, width].
        ids: name of the value with the row numbers.
        bits: 32: as it is; 8: int8 with one scale a row, so that no word pays for another's outliers; 4: see
            ``pack_rows``.

    Raises:
        CheckpointError: 4 bits, and the width is odd.
    """
    distinct, places = _distinct(table)
    if len(distinct) < _MOST_DISTINCT * len(table):
        table, ids = distinct, g.op("Gather", g.const(places), ids)
    match bits:
        case 32:
            return g.op("Gather", g.const(table), ids)
        case 8:
            scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
            codes = np.rint(table / np.where(scales > 0, scales, 1)).astype(np.int8)
            rows = g.op("Cast", g.op("Gather", g.const(codes), ids), to=FLOAT)
            return g.op("Mul", rows, g.op("Gather", g.const(scales.astype(np.float32)), ids))
        case _:
            return _emit_packed(g, table, ids)


def _distinct(table: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The rows that differ, in order, and for each row of ``table`` its place among them."""
    seen: dict[bytes, int] = {}
    places = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in table], np.int32)
    return table[np.unique(places, return_index=True)[1]], places


def _emit_packed(g: Graph, table: NDArray[np.float32], ids: str) -> str:
    pairs, scales = pack_rows(table)
    both = g.op("Cast", g.op("Gather", g.const(pairs), ids), to=FLOAT)
    high = g.op("Floor", g.op("Mul", both, g.scalar(1 / 16)))
    low = g.op("Sub", both, g.op("Add", g.op("Mul", high, g.scalar(16)), g.scalar(8)))
    blocks = g.op(
        "Reshape", g.op("Concat", high, low, axis=1), g.ints(-1, scales.shape[1], table.shape[1] // scales.shape[1])
    )
    scale = g.op("Cast", g.op("Gather", g.const(scales), ids), to=FLOAT)
    return g.op("Reshape", g.op("Mul", blocks, scale), g.ints(-1, table.shape[1]))


def pack_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Four bits a value, two values a byte, a scale a block.

    A value is its code, -8 to 7, times its block's scale. Codes reach one further down than up, so a scale has the sign
    that puts the block's largest value at -8; its size is the one of a grid that leaves the least squared error.

    Args:
        table: float32 [rows, width].

    Returns:
        int8 [rows, width / 2], ``16 * a + b + 8`` for the codes a of the row's first half and b of its second; float16
        [rows, blocks, 1].

    Raises:
        CheckpointError: the width is odd.
    """
    width = table.shape[1]
    if width % 2:
        raise CheckpointError(f"4 bits a value need rows of an even width, these have {width}; use embedding_bits 8")
    block = max(size for size in range(1, _BLOCK + 1) if width % size == 0)
    parts = [_fit(table[i : i + _ROWS_AT_A_TIME], block) for i in range(0, len(table), _ROWS_AT_A_TIME)]
    codes, scales = (np.concatenate(part) for part in zip(*parts, strict=True))
    first, second = np.hsplit(codes, 2)
    return (16 * first + second + 8).astype(np.int8), scales.astype(np.float16)


def _fit(rows: NDArray[np.float32], block: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Codes [rows, width] and scales [rows, blocks, 1], both as float32."""
    x = rows.reshape(len(rows), -1, block)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=2, keepdims=True), axis=2)
    best_codes, best_scales = np.zeros_like(x), np.zeros_like(largest)
    least = np.full_like(largest, np.inf)
    for factor in _SCALE_GRID:
        scales = (largest * (factor / -8)).astype(np.float16).astype(np.float32)  # as they are stored
        codes = np.clip(np.rint(x / np.where(scales == 0, 1, scales)), -8, 7)
        errors = np.square(codes * scales - x).sum(axis=2, keepdims=True)
        better = errors < least
        best_codes = np.where(better, codes, best_codes)
        best_scales = np.where(better, scales, best_scales)
        least = np.minimum(errors, least)
    return best_codes.reshape(rows.shape), best_scales
