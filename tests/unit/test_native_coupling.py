"""Groups of inputs whose products are added in 16 bits, for processors that saturate: they must not, and nothing may be lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.native import RUNNABLE, needs_kernels
from whit.runtime.native.coupling import Coupled, coupled
from whit.runtime.native.library import load_library

pytestmark = needs_kernels

MOST = 128  # of the weights of one sign in a pair; times 255 it is less than 2^15


def of_panels(panels: NDArray[np.int8]) -> Coupled:
    return coupled(panels, load_library(RUNNABLE[0].path).couple)


def random_panels(panel_count: int, groups: int, spread: float) -> NDArray[np.int8]:
    """Weights of which none are too large in pairs."""
    weights = np.random.default_rng(groups).normal(0, spread, (panel_count, groups, 32, 4)).clip(-MOST // 2, MOST // 2)
    return np.rint(weights).astype(np.int8)


def worst_sums(groups: NDArray[np.int8]) -> NDArray[np.int64]:
    """Largest size that codes of 0 to 255 can give each pair of columns' weights, of groups [n, 16, 4] added up: [16, 2]."""
    pairs = groups.astype(np.int64).reshape(-1, 16, 2, 2)
    above, below = np.maximum(pairs, 0).sum(axis=(0, 3)), np.maximum(-pairs, 0).sum(axis=(0, 3))
    return 255 * np.maximum(above, below)


@pytest.mark.parametrize("groups", [1, 2, 3, 24, 97])
@pytest.mark.parametrize("spread", [8.0, 25.0, 60.0])
def test_couples_stay_within_sixteen_bits_and_every_group_is_there_once(groups: int, spread: float) -> None:
    panels = random_panels(2, groups, spread)

    found = of_panels(panels)

    halves = panels.reshape(2, groups, 2, 16, 4).swapaxes(1, 2).reshape(4, groups, 16, 4)
    for half, weights, order, count in zip(halves, *found, strict=True):
        assert sorted(order) == list(range(groups))
        np.testing.assert_array_equal(weights, half[order])
        for k in range(count):
            assert worst_sums(weights[2 * k : 2 * k + 2]).max() < 2**15


def test_what_is_left_alone_fits_nobody_else_that_is() -> None:
    found = of_panels(random_panels(3, 96, 38.0))

    assert 0 < found.counts.min() <= found.counts.max() < 48
    for weights, count in zip(found.weights, found.counts, strict=True):
        alone = weights[2 * count :]
        for i in range(len(alone)):
            for j in range(i):
                assert worst_sums(alone[[i, j]]).max() >= 2**15


def test_groups_with_large_weights_are_coupled_with_those_that_have_room() -> None:
    panels = np.full((1, 8, 32, 4), 10, np.int8)
    panels[:, ::2, 3, 0] = 100  # a pair of 110, to which no other may add more than 18
    panels[:, 1::2, 3] = -9

    found = of_panels(panels)

    assert found.counts[0] == 4  # the half with column 3
    for k in range(4):
        assert sum(found.order[0, 2 * k : 2 * k + 2] % 2) == 1


@pytest.mark.parametrize(("each", "couples"), [(64, 2), (-64, 2), (65, 0), (-65, 0)])
def test_the_bound_itself_fits(each: int, couples: int) -> None:
    panels = np.zeros((1, 4, 32, 4), np.int8)
    panels[..., 0] = each

    assert of_panels(panels).counts.tolist() == [couples, couples]
