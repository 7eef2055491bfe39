"""Activations as parabolas: as close to the functions as is said, exact where they must be, and whole for ever outside."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.native import parabolas
from whit.runtime.native.curves import FROM, FUNCTIONS, PIECES, STEPS, curve, laid_out
from whit.runtime.native.library import KERNELS

EDGE = -FROM - 1 / STEPS  # beyond it, to both sides, lie the outermost pieces
BETWEEN, AT_THE_EDGES = 6.4e-5, 3.4e-4  # what ``curve`` promises for GELU


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_is_as_close_as_is_said(activation: str) -> None:
    x = np.linspace(-12, 12, 120_001)
    error = np.abs(parabolas(activation, x) - np.vectorize(FUNCTIONS[activation])(x))
    inside = np.abs(x) < EDGE

    assert error[inside].max() <= BETWEEN
    assert error[~inside].max() <= AT_THE_EDGES
    # The promise is no looser than it needs to be.
    assert error.max() > AT_THE_EDGES / 2
    assert error[inside].max() > BETWEEN / 2


def test_relu_is_exact_but_for_rounding() -> None:
    x = np.concatenate([np.linspace(-12, 12, 120_001), [-1e-30, 0, 1e-30, -1e30, 1e30]])

    np.testing.assert_allclose(parabolas("relu", x), np.maximum(x, 0), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_far_out_it_is_nothing_or_the_value_itself(activation: str) -> None:
    far = np.array([4, 5.5, 100, 1e6, 1e30])

    assert np.array_equal(parabolas(activation, far), far)
    assert np.array_equal(parabolas(activation, -far), np.zeros(5))


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_coefficients_are_laid_out_as_the_kernels_read_them(activation: str) -> None:
    pieces = curve(activation)

    assert pieces.shape == (3, PIECES)
    assert pieces.dtype == np.float32
    assert pieces.flags.c_contiguous
    by_power, by_piece = np.split(laid_out(pieces), [3 * PIECES])
    assert np.array_equal(by_power.reshape(3, PIECES), pieces)
    assert np.array_equal(by_piece.reshape(PIECES, 4), np.column_stack([*pieces, np.zeros(PIECES)]))


def test_the_kernels_cut_the_curve_where_this_does() -> None:
    """lanes.h repeats the three numbers."""
    source = KERNELS[0].path.with_name("lanes.h").read_text(encoding="utf-8")

    for line in (f"PIECES {PIECES}", f"PIECES_FROM ({FROM}f)", f"PIECES_STEPS {STEPS}f"):
        assert f"#define {line}\n" in source
