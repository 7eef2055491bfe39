"""Finds the best points of a collection for some queries: proposals of the graph, a scan of what it does not cover.

The database decides what exists. A graph proposes keys; those that are no longer points fall away in the look-up, and
the rest is scored from the stored vectors. If too few are left, more are asked for, and in the end all is scanned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from whit.contract.vectors import Encoding, FloatMatrix
from whit.server.index.database import View
from whit.server.index.graph import Graph
from whit.server.index.scoring import Block, Candidate, best, make_block, merge, score

CACHED_ROW_COUNT = 2048  # rows kept in memory between searches: a small collection, or what a graph does not cover yet
_CHUNK_ROW_COUNT = 1024
_SPARE_COUNT = 16  # proposals asked for beyond twice the limit
_GROWTH = 4  # how many times more are asked for when too many of them were dead


class Searcher:
    """Searches views of one collection. Thread-safe; keeps the last small scan in memory."""

    def __init__(self, storage: Encoding, dimension_count: int) -> None:
        self._storage = storage
        self._dimension_count = dimension_count
        self._cached: tuple[int, int, Sequence[Block]] = (-1, -1, ())  # sequence, first key, blocks

    def forget(self) -> None:
        """Gives the memory of the last scan back."""
        self._cached = (-1, -1, ())

    def search(
        self, view: View, graph: Graph | None, covered_key: int, queries: FloatMatrix, limit: int
    ) -> list[list[Candidate]]:
        """The ``limit`` best points for each row of ``queries``, unit float32 [queries, dims], best first.

        ``covered_key`` is the graph's, read before the view began, so that the graph holds every point of the view with
        a lower key; without a graph it is 0.

        Raises:
            ValueError: a stored vector has the wrong length.
        """
        numbers = list(range(len(queries)))
        found: list[list[Candidate]] = [[] for _ in numbers]
        unanswered = self._ask(view, graph, queries, limit, found) if graph else numbers
        if graph and len(unanswered) < len(numbers):
            self._scan(view, covered_key, queries, limit, found)
        if unanswered:
            scanned: list[list[Candidate]] = [[] for _ in unanswered]
            self._scan(view, 0, queries[unanswered], limit, scanned)
            for number, candidates in zip(unanswered, scanned, strict=True):
                found[number] = candidates
        return found

    def _ask(
        self, view: View, graph: Graph, queries: FloatMatrix, limit: int, found: list[list[Candidate]]
    ) -> list[int]:
        """Fills ``found`` from the graph. Returns the numbers of the queries for which it had too few points."""
        pending = list(range(len(queries)))
        count = 2 * limit + _SPARE_COUNT
        while pending and count <= len(graph) // 2:  # beyond that a scan is as fast and misses nothing
            proposals = graph.propose(queries[pending], count)
            keys = np.unique(np.concatenate(proposals))
            block = self._block(view.vectors_of(keys.tolist()))
            short = []
            for number, proposed in zip(pending, proposals, strict=True):
                indexes = np.flatnonzero(np.isin(block.keys, proposed, assume_unique=True))
                if len(indexes) < limit:
                    short.append(number)
                else:
                    found[number] = best(score(block, indexes, queries[number]), limit)
            pending, count = short, count * _GROWTH
        return pending

    def _scan(self, view: View, first_key: int, queries: FloatMatrix, limit: int, found: list[list[Candidate]]) -> None:
        for block in self._blocks(view, first_key):
            merge(found, block, queries, limit)

    def _blocks(self, view: View, first_key: int) -> Iterator[Block] | Sequence[Block]:
        state = view.state
        if min(state.point_count, state.next_key - first_key) > CACHED_ROW_COUNT:
            return self._read(view, first_key)
        sequence, key, blocks = self._cached
        if (sequence, key) != (state.sequence, first_key):
            blocks = tuple(self._read(view, first_key))
            self._cached = (state.sequence, first_key, blocks)
        return blocks

    def _read(self, view: View, first_key: int) -> Iterator[Block]:
        return (self._block(rows) for rows in view.vectors_from(first_key, _CHUNK_ROW_COUNT))

    def _block(self, rows: list[tuple[int, str, bytes]]) -> Block:
        return make_block(rows, self._storage, self._dimension_count)
