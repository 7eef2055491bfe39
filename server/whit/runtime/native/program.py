"""Reads the graph of an int8 package back into the model it computes.

``whit.export.encoder_graph`` writes a graph op by op; this reads it op by op, in the same order. Anything that it does not
expect is ``UnsupportedError``, never guessed: such a package runs in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.onnx_file import Node, OnnxGraph

FloatArray = NDArray[np.float32]

_ATTENTION = [
    *("Reshape", *["Gather", "Reshape"] * 3),
    *("FusedMatMul", "Add", "Softmax", "FusedMatMul", "Reshape", "Gather", "Reshape"),
]
_POOLINGS = {
    "mean": ["Unsqueeze", "Gather", "MatMul", "ReduceSum", "Squeeze", "Div"],
    "cls": ["Gather", "Gather"],
}
_NORMALIZE = ["ReduceL2", "Max", "Div"]
_ACTIVATIONS = {"FastGelu": "gelu_tanh", "Gelu": "gelu", "Relu": "relu"}


class UnsupportedError(Exception):
    """The kernels cannot run this package; the message says what they lack."""


@dataclass(frozen=True, slots=True)
class Rows:
    """An embedding table: ``codes`` float32 or int8 [rows, width], ``scales`` float32 [rows] of int8, ``places`` int32 [tokens]."""

    codes: NDArray[Any]
    scales: FloatArray | None = None
    places: NDArray[np.int32] | None = None


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
class Block:
    """One layer. A pair of linear layers is None where pruning left nothing of it; then the bias is all that it adds."""

    qkv: Linear | None
    out: Linear | FloatArray
    up: Linear | None
    down: Linear | FloatArray
    attention_norm: Norm
    output_norm: Norm
    head_count: int


@dataclass(frozen=True, slots=True)
class Program:
    """What a graph computes."""

    words: Rows
    positions: Rows
    embedding_norm: Norm
    epsilon: float
    blocks: Sequence[Block]
    head_width: int
    activation: str
    pooling: str
    normalize: bool


def read_program(graph: OnnxGraph) -> Program:
    """The model that a graph computes.

    Raises:
        UnsupportedError: it has something that the kernels do not know.
    """
    return _Reader(graph).read()


class _Reader:
    def __init__(self, graph: OnnxGraph) -> None:
        self._constants = graph.constants
        first = next((i for i, n in enumerate(graph.nodes) if "input_ids" in n.inputs), len(graph.nodes))
        # What comes before is arithmetic on the indices of the padded grid, which the kernels have no use for.
        self._prelude, nodes = graph.nodes[:first], graph.nodes[first:]
        self._nodes: Iterator[Node] = iter(nodes)
        self._next = next(self._nodes, None)
        self._widths: set[int] = set()
        self._activations: set[str] = set()
        self._epsilons: set[float] = set()

    def read(self) -> Program:
        if any(len(node.inputs) and self._is_table(node) for node in self._prelude):
            raise UnsupportedError("a relative position bias")
        words, positions = self._rows("input_ids"), self._rows("position_ids")
        self._take("Add")
        norm = self._norm()
        if self._kind() == "MatMul":
            raise UnsupportedError("a projection of the embeddings")
        blocks = []
        while self._kind() in ("QuantizeLinear", "Mul", "Add"):
            blocks.append(self._block())
        if self._kind() == "Greater":
            raise UnsupportedError("layers chosen by each request")
        pooling, normalize = self._head()
        return Program(
            *(words, positions, norm, self._one(self._epsilons, "epsilon"), blocks),
            *(self._one(self._widths, "head width"), self._one(self._activations, "activation"), pooling, normalize),
        )

    @staticmethod
    def _one(found: set[Any], what: str) -> Any:
        if len(found) != 1:
            raise UnsupportedError(f"{len(found)} values of {what}")
        return next(iter(found))

    def _is_table(self, node: Node) -> bool:
        return node.kind == "Gather" and node.inputs[0] in self._constants

    def _kind(self) -> str:
        return self._next.kind if self._next else "the end"

    def _take(self, *kinds: str) -> Node:
        node = self._next
        if node is None or node.kind not in kinds:
            raise UnsupportedError(f"{self._kind()} where {' or '.join(kinds)} was expected")
        self._next = next(self._nodes, None)
        return node

    def _enter(self, nodes: Sequence[Node]) -> None:
        """What comes next is ``nodes``, and then the rest."""
        rest = [] if self._next is None else [self._next]
        self._nodes = chain(nodes, rest, self._nodes)
        self._next = next(self._nodes, None)

    def _const(self, name: str) -> NDArray[Any]:
        if name not in self._constants:
            raise UnsupportedError(f"{name}, which is computed, where a constant was expected")
        return self._constants[name]

    def _rows(self, ids: str) -> Rows:
        places = None
        first = self._const(self._take("Gather").inputs[0])
        if first.ndim == 1 and first.dtype == np.int32:
            places, first = first, self._const(self._take("Gather").inputs[0])
        if first.dtype == np.float32 and self._kind() in ("Gather", "Add"):
            return Rows(first, places=places)
        self._take("Cast")
        if first.dtype != np.int8 or self._kind() != "Gather":
            raise UnsupportedError(f"embeddings ({ids}) of less than eight bits")
        scales = self._const(self._take("Gather").inputs[0])
        self._take("Mul")
        return Rows(first, scales.reshape(-1), places)

    def _norm(self) -> Norm:
        node = self._take("LayerNormalization")
        self._epsilons.add(node.attributes["epsilon"])
        return Norm(self._const(node.inputs[1]), self._const(node.inputs[2]))

    def _linear(self) -> Linear:
        smoothing = self._const(self._take("Mul").inputs[1]) if self._kind() == "Mul" else None
        self._take("QuantizeLinear")
        node = self._take("MatMulIntegerToFloat")
        weight, scale, weight_scales, zero = (self._const(name) for name in node.inputs[1:5])
        if weight.dtype != np.int8 or scale.ndim or len(node.inputs) < 7:
            raise UnsupportedError("a linear layer with one scale a token")
        bias = self._const(node.inputs[6])
        return Linear(weight, weight_scales, bias, float(scale), int(zero), smoothing)

    def _block(self) -> Block:
        out: Linear | FloatArray
        if self._kind() == "Add":  # no head is left
            qkv, heads, out = None, 0, self._added()
        else:
            qkv = self._linear()
            heads = self._attention()
            out = self._linear()
            self._take("Add")
        attention_norm = self._norm()
        if self._kind() == "Add":
            return Block(qkv, out, None, self._added(), attention_norm, self._norm(), heads)
        up = self._linear()
        self._activations.add(_ACTIVATIONS[self._take(*_ACTIVATIONS).kind])
        down = self._linear()
        self._take("Add")
        return Block(qkv, out, up, down, attention_norm, self._norm(), heads)

    def _added(self) -> FloatArray:
        return self._const(self._take("Add").inputs[0])

    def _attention(self) -> int:
        """Reads attention; returns the number of heads."""
        if self._kind() == "If":  # the same, with and without a mask
            self._enter(self._take("If").attributes["else_branch"])
        taken = [self._take(kind) for kind in _ATTENTION]
        _, _, heads, width = self._const(taken[2].inputs[1]).tolist()
        self._widths.add(width)
        return int(heads)

    def _head(self) -> tuple[str, bool]:
        """Pooling, and whether vectors get unit length."""
        kinds = []
        while self._next:
            kinds.append(self._take(self._kind()).kind)
        for pooling, steps in _POOLINGS.items():
            if kinds in ([*steps, "Identity"], [*steps, *_NORMALIZE, "Identity"]):
                return pooling, "ReduceL2" in kinds
        raise UnsupportedError(f"what comes after the layers: {', '.join(kinds)}")
