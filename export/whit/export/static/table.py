"""How a table is stored: float16, int8 with one step, or product-quantised. The reader is ``whit.runtime.static``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from whit.contract.manifest import KINDS, STATIC, TABLE_FILE
from whit.export.checkpoint import FloatArray
from whit.export.errors import OptionError
from whit.export.products import Weights, check_code_count, product_quantise

DTYPES = tuple(KINDS[STATIC].dtypes)


def write_table(folder: Path, table: FloatArray, dtype: str, stretch_count: int, weights: Weights, seed: int) -> None:
    """Writes ``table.safetensors``.

    Args:
        folder: the package to be.
        table: float32 [V, D].
        dtype: one of ``DTYPES``.
        stretch_count: ``pq``: codes a row; divides D.
        weights: [V], how much each row's error matters: how often the token occurs.
        seed: of k-means.
    """
    match dtype:
        case "float16":
            # Vectors have length 1, so a common factor is free: the longest row then has values of about 1.
            tensors: dict[str, NDArray[np.generic]] = {"rows": (table / np.abs(table).max()).astype(np.float16)}
        case "int8":
            step = best_step(table, weights)
            tensors = {"rows": _round(table / step), "step": np.array(step, np.float32)}
        case _:
            tensors = _products(table, stretch_count, weights, seed)
    save_file(tensors, str(folder / TABLE_FILE))


def best_step(table: FloatArray, weights: Weights) -> float:
    """The step of symmetric int8 codes with the least weighted error: cutting off a few extreme values makes it finer."""
    values = np.abs(table)
    largest = float(values.max())
    sample = np.argsort(-weights)[:4096]
    errors = {}
    for share in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3):
        step = largest * share / 127
        error = table[sample] - _round(table[sample] / step) * np.float32(step)
        errors[step] = float((np.square(error).sum(axis=1) * weights[sample]).sum())
    return min(errors, key=errors.__getitem__)


def _products(table: FloatArray, stretch_count: int, weights: Weights, seed: int) -> dict[str, NDArray[np.generic]]:
    found = product_quantise(table, stretch_count, weights, seed)
    longest = max(float(found.lengths.max()), 1e-30)
    return {"codes": found.codes, "centroids": found.centroids, "lengths": (found.lengths / longest).astype(np.float16)}


def random_turn(dimension_count: int, seed: int) -> FloatArray:
    """An orthogonal matrix: turning the whole space changes no cosine, and spreads what columns hold evenly."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension_count, dimension_count)))
    return turn.astype(np.float32)


def _round(values: FloatArray) -> NDArray[np.int8]:
    return np.clip(np.rint(values), -127, 127).astype(np.int8)


def check_storage(dtype: str, dimension_count: int, stretch_count: int) -> None:
    """Refuses a way of storing that does not exist or does not divide.

    Raises:
        CheckpointError: says what would do.
    """
    if dtype not in DTYPES:
        raise OptionError("dtype", f"must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "pq":
        check_code_count("code_count", stretch_count, "dimension_count", dimension_count)
