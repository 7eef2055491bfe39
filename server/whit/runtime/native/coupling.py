"""Weights laid out for processors that add products in pairs, in 16 bits: what ``couples.h`` is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HALF = 16  # columns
# What finds couples: of sums uint8 [halves, groups, 64] an order int32 [halves, groups] and counts int32 [halves].
Couple = Callable[[NDArray[np.uint8]], tuple[NDArray[np.int32], NDArray[np.int32]]]


class Coupled(NamedTuple):
    """Weights int8 [halves of panels, groups, 16, 4], which group is where int32 [halves, groups], couples int32 [halves]."""

    weights: NDArray[np.int8]
    order: NDArray[np.int32]
    counts: NDArray[np.int32]


def coupled(panels: NDArray[np.int8], couple: Couple) -> Coupled:
    """Puts the groups of four inputs of each half panel in an order of couples.

    Args:
        panels: int8 [panels, groups, 32, 4]; no two weights 2i and 2i + 1 of one sign add up to more than 128.
        couple: finds couples among groups of which the hard ones come first.
    """
    count, groups = panels.shape[:2]
    halves = panels.reshape(count, groups, 2, _HALF, 4).swapaxes(1, 2).reshape(-1, groups, _HALF, 4)
    sums = _pair_sums(halves)
    # Hard to couple: large sums, the largest above all. The fourth power is as good as counting whom each group fits.
    squares = np.square(sums.astype(np.float32))
    hardest = np.argsort(-np.einsum("hgs,hgs->hg", squares, squares), axis=1, kind="stable").astype(np.int32)
    half = np.arange(len(halves))[:, None]
    order, counts = couple(sums[half, hardest])
    order = hardest[half, order]
    return Coupled(halves[half, order], order, counts)


def _pair_sums(halves: NDArray[np.int8]) -> NDArray[np.uint8]:
    """uint8 [halves, groups, 64]: of each pair of weights those above 0 added up, then the sizes of those below."""
    above, below = np.maximum(halves, 0).view(np.uint8), np.maximum(-halves.astype(np.int16), 0).astype(np.uint8)
    sizes = np.stack([above, below], axis=2).reshape(*halves.shape[:2], -1, 2)
    return sizes[..., 0] + sizes[..., 1]
