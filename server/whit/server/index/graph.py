"""The usearch graph of a large collection: it proposes keys that may be near a query, and knows nothing for sure.

It holds int8 codes whatever the collection stores: a quarter of the memory of float32 and the fastest to build, and what
the codes lose in order the caller wins back by asking for more candidates and scoring them from the stored vectors.
Nothing is ever removed from it (usearch's removal has a history of defects): keys that are no longer points stay until
the graph is built anew, and the caller drops them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import usearch
from numpy.typing import NDArray
from usearch.index import Index, Matches

from whit.contract.vectors import FloatMatrix, int8_codes

VERSION: str = usearch.__version__

# Links a node, and candidates kept while adding and searching: with these, 20 proposals held the true 10 nearest of
# 10,000 x 384 clustered vectors for every one of 200 queries (tests/unit/test_index_search.py keeps watch).
_CONNECTIVITY = 16
_EXPANSION_ADD = 128
_EXPANSION_SEARCH = 64


class Graph:
    """A graph over keys below ``covered_key``: every point alive with a lower key is in it.

    One thread may add while others search. Calls on one graph run one at a time inside usearch.
    """

    def __init__(self, dimension_count: int) -> None:
        self._index = Index(
            ndim=dimension_count,
            metric="cos",
            dtype="i8",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )
        self.covered_key = 0

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: NDArray[np.int64], vectors: FloatMatrix) -> None:
        """Adds float32 [count, dims] under keys that ascend, all at least ``covered_key``, and covers them."""
        self._index.add(keys.astype(np.uint64), int8_codes(vectors)[0], threads=1)
        self.covered_key = int(keys[-1]) + 1

    def cover(self, key: int) -> None:
        """Notes that no point alive has a key from ``covered_key`` up to, not including, ``key``."""
        self.covered_key = key

    def propose(self, queries: FloatMatrix, count: int) -> Sequence[NDArray[np.int64]]:
        """At most ``count`` keys for each row of float32 [queries, dims], nearest first."""
        found = self._index.search(int8_codes(queries)[0], count, threads=1)
        if isinstance(found, Matches):  # usearch's answer to a single query
            return [found.keys.astype(np.int64)]
        # Rows are padded with a sentinel beyond their count.
        return [found.keys[row, : found.counts[row]].astype(np.int64) for row in range(len(found))]

    def save(self, path: Path) -> None:
        """Writes the graph to ``path``, not atomically.

        Raises:
            OSError: it could not be written whole.
        """
        try:
            self._index.save(path)
        except RuntimeError as error:  # usearch does not say which: a full disk, most often
            raise OSError(f"could not write {path} ({error}); the disk may be full") from error
        # usearch does not look whether its last bytes arrived.
        size, expected = path.stat().st_size, self._index.serialized_length
        if size != expected:
            raise OSError(f"could not write {path} ({size} of {expected} bytes arrived); the disk may be full")

    @classmethod
    def load(cls, path: Path, dimension_count: int, covered_key: int, entry_count: int) -> Graph | None:
        """Reads what ``save`` wrote, or None if it is another graph. The caller has proved that the bytes are whole."""
        graph = cls(dimension_count)
        index = graph._index
        expected = index.dtype
        try:
            index.load(path)
        except RuntimeError:
            return None
        if (index.ndim, index.dtype, len(index)) != (dimension_count, expected, entry_count):
            return None
        graph.covered_key = covered_key
        return graph
