"""Activations as 32 parabolas (``Curve`` in lanes.h): three look-ups instead of an exponential."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PIECES = 32
FROM, STEPS = -4.0, 4.0  # the first piece begins here; a piece is 1 / STEPS wide


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _relu(x: float) -> float:
    return max(x, 0.0)


FUNCTIONS: dict[str, Callable[[float], float]] = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu}


def curve(activation: str) -> NDArray[np.float32]:
    """Coefficients [3, 32] of ``c[0] + x * (c[1] + x * c[2])``; the outermost pieces, 0 and x, go on for ever.

    Each parabola meets the function at the three Chebyshev nodes of its piece: at most 6.4e-5 off for GELU, and 3.4e-4 where
    the outermost pieces begin. The u8 codes that its values are rounded to are some 0.012 apart.
    """
    function = FUNCTIONS[activation]
    nodes = np.cos((2 * np.arange(3) + 1) * np.pi / 6) / (2 * STEPS)
    pieces = np.zeros((PIECES, 3))
    for i in range(1, PIECES - 1):
        x = FROM + (i + 0.5) / STEPS + nodes
        pieces[i] = np.linalg.solve(np.vander(x, 3, increasing=True), [function(value) for value in x])
    pieces[-1] = (0, 1, 0)
    return np.ascontiguousarray(pieces.T, np.float32)


def laid_out(pieces: NDArray[np.float32]) -> NDArray[np.float32]:
    """``Curve`` of the C code: coefficients [3, 32] by their power, then by piece [32, 4] with a 0 each."""
    return np.concatenate([pieces.ravel(), np.pad(pieces.T, ((0, 0), (0, 1))).ravel()])
