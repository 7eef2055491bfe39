"""How one linear layer is computed: float32, or int8 with a calibrated (static) or a per-token (row) activation scale.

int8 here is u8 activations by s8 weights, the pair that every CPU has a kernel for. Integer sums are exact, so the only
thing a batch could change is a scale computed from the whole batch (dynamic quantisation), and that is never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whit.export.embedding import Rows
from whit.export.families import Linear
from whit.export.graph import MICROSOFT, UINT8, Graph

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Static:
    """int8 with calibrated activations: ``code = rint(x * smoothing / scale) + zero_point``.

    ``codes`` int8 [in, out] and ``weight_scales`` float32 [out] already hold the smoothing's inverse; ``smoothing`` float32
    [in] is None where there is none.
    """

    codes: NDArray[np.int8]
    weight_scales: FloatArray
    bias: FloatArray
    scale: float
    zero_point: int
    smoothing: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """int8 with one activation scale a token, ``max|x| / 127``; codes int8 [in, out], weight_scales and bias float32 [out]."""

    codes: NDArray[np.int8]
    weight_scales: FloatArray
    bias: FloatArray


Scheme = Linear | Static | Row


@dataclass(frozen=True, slots=True)
class Plan:
    """The scheme of each linear layer by name, and the word embeddings as they are stored; what is not named stays float32."""

    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    words: Rows | None = None

    def scheme(self, name: str, linear: Linear) -> Scheme:
        """What to do with the layer called ``name``."""
        return self.schemes.get(name, linear)

    def ends_at_ceiling(self, name: str) -> bool:
        """Whether the layer called ``name`` reads no more of a value than its layer's ceiling: codes that end there."""
        scheme = self.schemes.get(name)
        return isinstance(scheme, Static) and scheme.smoothing is None


def emit_linear(g: Graph, x: str, scheme: Scheme) -> str:
    """Appends one linear layer to the graph: x [T, in] to [T, out]."""
    match scheme:
        case Linear():
            return g.op("Add", g.op("MatMul", x, g.const(scheme.weight)), g.const(scheme.bias))
        case Static():
            if scheme.smoothing is not None:
                x = g.op("Mul", x, g.const(scheme.smoothing))
            scale, zero = g.scalar(scheme.scale), g.const(np.array(scheme.zero_point, np.uint8))
            codes = g.op("QuantizeLinear", x, scale, zero)
            return _integer_matmul(g, codes, scale, zero, scheme.codes, scheme.weight_scales, scheme.bias)
        case Row():
            largest = g.op("ReduceMax", g.op("Abs", x), axes=[1], keepdims=1)
            scale = g.op("Max", g.op("Mul", largest, g.scalar(1 / 127)), g.scalar(1e-30))  # [T, 1]
            shifted = g.op("Add", g.op("Round", g.op("Div", x, scale)), g.scalar(128))
            codes, zero = g.op("Cast", shifted, to=UINT8), g.const(np.array(128, np.uint8))
            y = _integer_matmul(g, codes, g.scalar(1), zero, scheme.codes, scheme.weight_scales, None)
            return g.op("Add", g.op("Mul", y, scale), g.const(scheme.bias))


def _integer_matmul(
    g: Graph,
    codes: str,
    scale: str,
    zero: str,
    weight: NDArray[np.int8],
    weight_scales: FloatArray,
    bias: FloatArray | None,
) -> str:
    inputs = [codes, g.const(weight), scale, g.const(weight_scales), zero, ""]
    if bias is not None:
        inputs.append(g.const(bias))
    return g.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
