"""The parts of a model as ``program.py`` finds them in a graph, and as ``library.py`` lays them out for the C code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class UnsupportedError(Exception):
    """The kernels cannot run this package; the message says what they lack."""


class OutdatedError(UnsupportedError):
    """The compiled kernels are not those of this version: packages run slower than they could, until whit is installed again."""


@dataclass(frozen=True, slots=True)
class Rows:
    """An embedding table, stored in one of four ways (see ``whit.export.embedding`` for the last two).

    - floats: ``codes`` float32 [rows, width].
    - int8: ``codes`` int8 [rows, width], ``scales`` float32 [rows].
    - four bits: ``codes`` int8 [rows, width / 2], ``scales`` float32 [rows, blocks].
    - products: ``codes`` uint8 [rows, stretches], ``scales`` float32 [rows], ``centroids`` int8 [stretches, 256, width /
      stretches].

    ``places`` int32 [tokens] says which row each token reads; None: its own.
    """

    codes: NDArray[Any]
    scales: FloatArray | None = None
    places: NDArray[np.int32] | None = None
    centroids: NDArray[np.int8] | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it is stored in four bits a value."""
        return self.scales is not None and self.scales.ndim == 2

    @property
    def width(self) -> int:
        """Values in a row."""
        if self.centroids is not None:
            return int(self.centroids.shape[0] * self.centroids.shape[2])
        return int(self.codes.shape[1]) * (2 if self.is_packed else 1)

    @property
    def token_count(self) -> int:
        """Ids that have a row."""
        return len(self.codes) if self.places is None else len(self.places)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation, float32 [width] each."""

    gain: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Linear:
    """int8 [in, out] with u8 activations ``rint(x * smoothing / scale) + zero_point``; bias and weight_scales float32 [out]."""

    codes: NDArray[np.int8]
    weight_scales: FloatArray
    bias: FloatArray
    scale: float
    zero_point: int
    smoothing: FloatArray | None


@dataclass(frozen=True, slots=True)
class RowLinear:
    """int8 [in, out] with one activation scale a token, ``max|x| / 127``; bias and weight_scales float32 [out]."""

    codes: NDArray[np.int8]
    weight_scales: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """float32 [in, out] and [out]."""

    weight: FloatArray
    bias: FloatArray


AnyLinear = Linear | RowLinear | FloatLinear


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. A pair of linear layers is None where pruning left nothing of it; then the bias is all that it adds.

    ``ceiling`` is the most that an activation counts.
    """

    qkv: AnyLinear | None
    out: AnyLinear | FloatArray
    up: AnyLinear | None
    down: AnyLinear | FloatArray
    attention_norm: Norm
    output_norm: Norm
    head_count: int
    ceiling: float = math.inf


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling; ``activation`` is ``identity``, ``relu``, ``tanh`` or ``gelu``."""

    linear: FloatLinear
    activation: str


@dataclass(frozen=True, slots=True)
class Program:
    """What a graph computes.

    ``relative_bias`` float32 [2 * n + 1, heads] is added to the score of a query and a key that lies -n to n tokens behind it,
    or farther, which counts as n. ``pooling`` is one of ``whit.contract.pooling.POOLINGS``, or ``ditto``: then
    ``weighing`` says which layer and head weigh the tokens.
    """

    words: Rows
    positions: Rows
    embedding_norm: Norm
    epsilon: float
    blocks: Sequence[Block]
    head_width: int
    activation: str
    pooling: str
    normalize: bool
    relative_bias: FloatArray | None = None
    projection: FloatLinear | None = None
    weighing: tuple[int, int] | None = None
    dense: Sequence[Dense] = ()
