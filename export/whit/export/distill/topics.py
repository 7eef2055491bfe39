"""Which texts are about the same: groups of neighbours, so that a batch asks for fine differences.

Two random texts have next to nothing in common, and a batch of such teaches next to nothing about which of two related texts is
nearer to a third; that is what a search asks. Topic-aware sampling (TAS-Balanced, arXiv:2104.06967) draws a batch from one
cluster. Here a random projection tree (Dasgupta and Freund, STOC 2008) is grown anew for every epoch, so that a text meets other
neighbours each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray

Indices = NDArray[np.int64]

_WIDTH = 64  # of a sketch; distances in it are right within a tenth or so (Johnson and Lindenstrauss)


def sketch(vectors: FloatArray) -> FloatArray:
    """A random projection of ``vectors`` [n, d] to [n, 64], always the same one: enough to tell near from far."""
    width = vectors.shape[1]
    if width <= _WIDTH:
        return vectors
    return vectors @ np.random.default_rng(0).standard_normal((width, _WIDTH), np.float32)


def neighbours(rows: FloatArray, most: int, seed: Sequence[int]) -> list[Indices]:
    """All ``rows`` [n, d] once, in groups of at most ``most`` that lie near each other; in random order.

    A group that is too large is cut in two equal halves, along the line through two of its rows drawn at random.
    """
    random = np.random.default_rng(seed)
    groups: list[Indices] = []
    waiting: list[Indices] = [np.arange(len(rows), dtype=np.int64)]
    while waiting:
        group = waiting.pop()
        if len(group) <= most:
            groups.append(group)
            continue
        first, second = rows[random.choice(group, 2, replace=False)]
        order = np.argsort(rows[group] @ (second - first), kind="stable")
        waiting += np.array_split(group[order], 2)
    return [groups[i] for i in random.permutation(len(groups))]
