"""Runs a static package: a table with a row a token; a text's vector is the mean of its tokens' rows. No graph.

Batch invariance: a text's rows are summed apart from every other text's, int8 codes as integers. So a vector depends on
its own tokens only, to the last bit, and in an int8 table not even on the order in which they are added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import Manifest, PackageError
from whit.runtime.package import Package
from whit.runtime.packing import TokenIds

_DTYPES: Mapping[str, type[np.generic]] = {"I8": np.int8, "U8": np.uint8, "F16": np.float16, "F32": np.float32}


class StaticEncoder:
    """The table of one static package, mapped from disk. ``run`` may be called from several threads at once."""

    provider = "table"
    unmasked_length = 0
    most_cores = 1

    def __init__(self, package: Package) -> None:
        self.manifest: Manifest = package.manifest
        self._rows, self._step = open_table(package.directory / self.manifest.model_file, self.manifest)
        # int32 holds the sum of 2**24 codes exactly, more tokens than any package reads.
        self._sum_dtype = np.int32 if self._rows.dtype == np.int8 else np.float32

    def attention_length(self, token_count: int) -> int:
        """The same for all: nothing is padded, so texts of any lengths are run together."""
        del token_count
        return 1

    def run(self, sequences: Sequence[TokenIds], layer_count: int = 0, core_count: int = 1) -> NDArray[np.float32]:
        """Vectors of any number of texts.

        Args:
            sequences: int64 [token count] each, at least one token, within the vocabulary.
            layer_count: 0; a table has no layers to leave out.
            core_count: as ``most_cores``; a sum is done before another core knows of it.

        Returns:
            float32 [len(sequences), dimension_count]; a row depends on its own sequence only, to the last bit. A text
            whose rows add up to nothing has the zero vector.

        Raises:
            ValueError: ``layer_count`` is not 0.
        """
        del core_count
        if layer_count:
            raise ValueError(f"layer_count must be 0 for a table, got {layer_count}")
        sums = np.empty((len(sequences), self.manifest.dimension_count), self._sum_dtype)
        for row, ids in zip(sums, sequences, strict=True):
            np.add.reduce(self._rows[ids], axis=0, dtype=self._sum_dtype, out=row)
        vectors = sums.astype(np.float32)
        if self.manifest.normalized:
            lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # of one row at a time
            vectors /= np.where(lengths > 0, lengths, 1)[:, None]
        else:
            counts = np.array([len(ids) for ids in sequences], np.float32)
            vectors *= (self._step / counts)[:, None]
        return vectors

    def encode(
        self,
        sequences: Sequence[TokenIds],
        *,
        token_budget: int = 0,
        executor: Executor | None = None,
        layer_count: int = 0,
    ) -> NDArray[np.float32]:
        """As ``run``. Takes the arguments of an encoder that computes a graph, and has no use for them."""
        del token_budget, executor
        return self.run(sequences, layer_count)


def open_table(path: Path, manifest: Manifest) -> tuple[NDArray[Any], np.float32]:
    """The rows of a table and the step that one unit of them stands for; docs/package-format.md has the tensors.

    Returns:
        int8 or float16 [vocabulary_size, dimension_count], mapped from disk unless the table is product-quantised: those
        codes are decoded into memory, an int8 a value.

    Raises:
        PackageError: no table of this form.
    """
    tensors = _read_safetensors(path)
    shape = (manifest.vocabulary_size, manifest.dimension_count)
    expected = "float16" if manifest.dtype == "float16" else "int8"
    rows: NDArray[Any]
    try:
        match manifest.dtype:
            case "int8":
                rows, step = tensors["rows"], np.float32(tensors["step"][()])
            case "float16":
                rows, step = tensors["rows"], np.float32(1)
            case _:
                rows, step = decode_products(tensors["codes"], tensors["centroids"], tensors["lengths"])
    except (KeyError, ValueError, IndexError) as error:
        raise PackageError(f"{path} lacks a tensor of a {manifest.dtype} table ({error}); export it again") from None
    if rows.shape != shape or rows.dtype != expected:
        raise PackageError(
            f"{path} has rows {rows.dtype} {list(rows.shape)}, the manifest says {expected} {list(shape)}; export it again"
        )
    return rows, step


def decode_products(
    codes: NDArray[np.uint8], centroids: NDArray[np.int8], lengths: NDArray[np.float16]
) -> tuple[NDArray[np.int8], np.float32]:
    """Rows of a product-quantised table (Jégou et al., TPAMI 2011; length apart as in FastText.zip, arXiv:1612.03651).

    Args:
        codes: uint8 [V, M], for each of M stretches of a row the number of its centroid.
        centroids: int8 [M, 256, D / M], of rows scaled to one length.
        lengths: float16 [V], by how much to scale each row; non-negative.

    Returns:
        int8 [V, D] and the step of one unit. Every operation is exactly rounded, so all machines decode the same rows.
    """
    stretches = np.arange(codes.shape[1])
    rows = centroids[stretches, codes].reshape(len(codes), -1).astype(np.float32) * lengths[:, None].astype(np.float32)
    step = np.float32(max(float(np.abs(rows).max()), 1e-30)) / np.float32(127)
    return np.rint(rows / step).astype(np.int8), step


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors file, mapped from disk and read-only.

    The format is a header (its byte count as a little-endian u64, then JSON) and the tensors' bytes, one after another.

    Raises:
        PackageError: it has another form.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)  # still mapped, without the subclass's costs
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        return {
            name: data[start:][slice(*entry["data_offsets"])].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise PackageError(f"{path} is no safetensors table ({error}); export the package again") from None
