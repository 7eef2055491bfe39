"""How an embedding table is stored, and how the graph looks up its rows: float32, int8, four bits a value, or products.

Four bits are block-wise, as weights are kept elsewhere (Dettmers & Zettlemoyer, "The case for 4-bit precision",
arXiv:2212.09720). onnxruntime has an operator for them (GatherBlockQuantized), but early versions lack it and others take
eight times as long for it; plain operators take as long as its quick ones and are everywhere. Products are in ``products``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray
from whit.export.errors import OptionError
from whit.export.graph import FLOAT, INT32, INT64, Graph
from whit.export.products import Products, check_code_count, product_quantise
from whit.runtime.encoder import open_session

EMBEDDING_DTYPES = ("int8", "int4", "pq")

_BLOCK = 128  # values of a row that share a scale, at most
# The largest value of a block need not be met exactly: clipping it a little makes all others more exact.
_SCALE_GRID = np.linspace(0.6, 1.05, 10, dtype=np.float32)
_ROWS_AT_A_TIME = 4096
# With a few rows twice, as any table has, looking up their places is not worth it.
_MOST_DISTINCT = 0.9
_USUAL_CODE_WIDTH = 4  # values that a code stands for, unless something else is asked for
_UNSEEN = 1  # a word that the calibration text lacks counts so often: other texts will have it


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """``codes * scales``, so that no word pays for another's outliers: int8 [rows, width], float32 [rows, 1]."""

    codes: NDArray[np.int8]
    scales: FloatArray


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Four bits a value, see ``pack_rows``."""

    pairs: NDArray[np.int8]
    scales: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Fewer rows than tokens: ``places`` int32 [tokens] says which one each token reads."""

    places: NDArray[np.int32]
    rows: FloatArray | Int8Rows | PackedRows | Products


Rows = FloatArray | Int8Rows | PackedRows | Products | SharedRows


def store_rows(
    table: FloatArray,
    dtype: str,
    *,
    code_count: int = 0,
    counts: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rows:
    """A table as it is stored. Rows that tokens share are stored once.

    Args:
        table: float32 [rows, width].
        dtype: ``float32``, or one of ``EMBEDDING_DTYPES``.
        code_count: ``pq``: codes a row.
        counts: ``pq``: how often each row is looked up, [rows]; rows that are, are coded more exactly. None: all alike.
        progress: ``pq``: is told stretches done, and how many there are.

    Raises:
        CheckpointError: the width does not divide so, see ``check_embedding``.
    """
    distinct, places = _distinct(table)
    if len(distinct) < _MOST_DISTINCT * len(table):
        merged = None if counts is None else np.bincount(places, counts, len(distinct)).astype(np.int64)
        return SharedRows(places, _store(distinct, dtype, code_count, merged, progress))
    return _store(table, dtype, code_count, counts, progress)


def _store(
    table: FloatArray,
    dtype: str,
    code_count: int,
    counts: NDArray[np.int64] | None,
    progress: Callable[[int, int], None],
) -> FloatArray | Int8Rows | PackedRows | Products:
    match dtype:
        case "float32":
            return table
        case "int8":
            scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
            codes = np.rint(table / np.where(scales > 0, scales, 1)).astype(np.int8)
            return Int8Rows(codes, scales.astype(np.float32))
        case "int4":
            return PackedRows(*pack_rows(table))
        case _:
            weights = np.ones(len(table)) if counts is None else np.asarray(counts + _UNSEEN, np.float64)
            return product_quantise(table, code_count, weights, seed=0, progress=progress)


def emit_rows(g: Graph, rows: Rows, ids: str) -> str:
    """Appends the look-up of rows: ``ids`` [T] to float32 [T, width]."""
    match rows:
        case SharedRows():
            return emit_rows(g, rows.rows, g.op("Gather", g.const(rows.places), ids))
        case Int8Rows():
            values = g.op("Cast", g.op("Gather", g.const(rows.codes), ids), to=FLOAT)
            return g.op("Mul", values, g.op("Gather", g.const(rows.scales), ids))
        case PackedRows():
            return _emit_packed(g, rows, ids)
        case Products():
            return _emit_products(g, rows, ids)
        case _:
            return g.op("Gather", g.const(rows), ids)


def looked_up(rows: Rows, ids: NDArray[np.int64]) -> FloatArray:
    """The rows [len(ids), width] as a package's graph gives them."""
    g = Graph()
    g.op("Identity", emit_rows(g, rows, "ids"), output="rows")
    session = open_session(g.model({"ids": (INT64, ["T"])}, {"rows": ["T", "W"]}).SerializeToString())
    found: FloatArray = session.run(["rows"], {"ids": ids})[0]
    return found


def check_embedding(dtype: str, code_count: int | None, width: int) -> int:
    """Refuses a way of storing word embeddings that does not exist or does not divide.

    Args:
        dtype: one of ``EMBEDDING_DTYPES``.
        code_count: ``pq``: codes a row; None: one for every four values, or for a few more if that does not divide.
        width: values in a row.

    Returns:
        Codes a row; 0 unless ``pq``.

    Raises:
        CheckpointError: says what would do.
    """
    if dtype not in EMBEDDING_DTYPES:
        raise OptionError("embedding_dtype", f"must be one of {', '.join(EMBEDDING_DTYPES)}, got {dtype!r}")
    if dtype != "pq" and code_count is not None:
        raise OptionError("embedding_code_count", f"is for embedding_dtype pq, not {dtype}; leave it out")
    if dtype == "int4" and width % 2:
        raise OptionError(
            "embedding_dtype", f"int4 needs rows of an even width, these have {width} values; choose int8 or pq"
        )
    if dtype != "pq":
        return 0
    if code_count is None:
        return next(n for n in range(max(width // _USUAL_CODE_WIDTH, 1), 0, -1) if width % n == 0)
    check_code_count("embedding_code_count", code_count, "the width of the word embeddings", width)
    return code_count


def _distinct(table: FloatArray) -> tuple[FloatArray, NDArray[np.int32]]:
    """The rows that differ, in order, and for each row of ``table`` its place among them."""
    seen: dict[bytes, int] = {}
    places = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in table], np.int32)
    return table[np.unique(places, return_index=True)[1]], places


def _emit_products(g: Graph, rows: Products, ids: str) -> str:
    stretches, count, size = rows.centroids.shape
    codes = g.op("Cast", g.op("Gather", g.const(rows.codes), ids), to=INT32)
    first = np.arange(stretches, dtype=np.int32) * count  # of each stretch's centroids, which lie one after the other
    places = g.op("Add", codes, g.const(first))
    found = g.op("Gather", g.const(rows.centroids.reshape(-1, size)), places)  # [T, M, width / M]
    values = g.op("Cast", g.op("Reshape", found, g.ints(-1, stretches * size)), to=FLOAT)
    lengths = g.op("Gather", g.const(rows.lengths.reshape(-1, 1).astype(np.float16)), ids)
    return g.op("Mul", values, g.op("Cast", lengths, to=FLOAT))


def _emit_packed(g: Graph, rows: PackedRows, ids: str) -> str:
    width, scales = 2 * rows.pairs.shape[1], rows.scales
    both = g.op("Cast", g.op("Gather", g.const(rows.pairs), ids), to=FLOAT)
    high = g.op("Floor", g.op("Mul", both, g.scalar(1 / 16)))
    low = g.op("Sub", both, g.op("Add", g.op("Mul", high, g.scalar(16)), g.scalar(8)))
    blocks = g.op("Reshape", g.op("Concat", high, low, axis=1), g.ints(-1, scales.shape[1], width // scales.shape[1]))
    scale = g.op("Cast", g.op("Gather", g.const(scales), ids), to=FLOAT)
    return g.op("Reshape", g.op("Mul", blocks, scale), g.ints(-1, width))


def pack_rows(table: FloatArray) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Four bits a value, two values a byte, a scale a block.

    A value is its code, -8 to 7, times its block's scale. Codes reach one further down than up, so a scale has the sign
    that puts the block's largest value at -8; its size is the one of a grid that leaves the least squared error.

    Args:
        table: float32 [rows, width], the width even.

    Returns:
        int8 [rows, width / 2], ``16 * a + b + 8`` for the codes a of the row's first half and b of its second; float16
        [rows, blocks, 1].
    """
    width = table.shape[1]
    block = max(size for size in range(1, _BLOCK + 1) if width % size == 0)
    parts = [_fit(table[i : i + _ROWS_AT_A_TIME], block) for i in range(0, len(table), _ROWS_AT_A_TIME)]
    codes, scales = (np.concatenate(part) for part in zip(*parts, strict=True))
    first, second = np.hsplit(codes, 2)
    return (16 * first + second + 8).astype(np.int8), scales.astype(np.float16)


def _fit(rows: FloatArray, block: int) -> tuple[FloatArray, FloatArray]:
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
