"""Reads the graph of an int8 package back into the model it computes.

``whit.export.encoder_graph`` writes a graph op by op; this reads it op by op, in the same order. Anything that it does not
expect is ``UnsupportedError``, never guessed: such a package runs in onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whit.runtime.native.cursor import Cursor
from whit.runtime.native.embedding import read_rows
from whit.runtime.native.onnx_file import OnnxGraph
from whit.runtime.native.parts import Block, FloatArray, Linear, Norm, Program, Rows, UnsupportedError

__all__ = ["Block", "Linear", "Norm", "Program", "Rows", "UnsupportedError", "read_program"]

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


def read_program(graph: OnnxGraph) -> Program:
    """The model that a graph computes.

    Raises:
        UnsupportedError: it has something that the kernels do not know.
    """
    try:
        return _Reader(graph).read()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        # A node with too few inputs or attributes, an array of another shape.
        raise UnsupportedError(f"a graph that whit would not write ({error!r})") from None


class _Reader:
    def __init__(self, graph: OnnxGraph) -> None:
        # What comes before is arithmetic on the indices of the padded grid, which the kernels have no use for.
        self._nodes = Cursor(graph, "input_ids")
        self._widths: set[int] = set()
        self._activations: set[str] = set()
        self._epsilons: set[float] = set()

    def read(self) -> Program:
        nodes = self._nodes
        words, positions = read_rows(nodes), read_rows(nodes)
        nodes.take("Add")
        norm = self._norm()
        if nodes.kind == "MatMul":
            raise UnsupportedError("a projection of the embeddings")
        blocks = self._blocks()
        pooling, normalize = self._head()
        return Program(
            *(words, positions, norm, self._one(self._epsilons, "epsilon"), blocks),
            *(self._one(self._widths, "head width"), self._one(self._activations, "activation"), pooling, normalize),
            self._relative_bias(blocks),
        )

    @staticmethod
    def _one(found: set[Any], what: str) -> Any:
        if len(found) != 1:
            raise UnsupportedError(f"{len(found)} values of {what}")
        return next(iter(found))

    def _relative_bias(self, blocks: Sequence[Block]) -> FloatArray | None:
        """The only table that anything is looked up in before the embeddings."""
        nodes = self._nodes
        tables = [n.inputs[0] for n in nodes.prelude if n.kind == "Gather" and nodes.is_constant(n.inputs[0])]
        if not tables:
            return None
        table = nodes.constant(tables[0])
        if len(tables) > 1 or table.ndim != 2 or any(block.head_count not in (0, table.shape[1]) for block in blocks):
            raise UnsupportedError("a relative position bias that is not one for each head of every layer")
        return table

    def _blocks(self) -> list[Block]:
        blocks = []
        while self._is_block() or self._nodes.kind == "Greater":
            if self._nodes.kind == "Greater":  # a request may end here; if not:
                self._nodes.take("Greater")
                self._nodes.enter(self._nodes.take("If").attributes["then_branch"])
            blocks.append(self._block())
        return blocks

    def _is_block(self) -> bool:
        """Whether what comes next is a layer. A layer without heads begins by adding a bias; pooling may add, too."""
        nodes = self._nodes
        return nodes.kind in ("QuantizeLinear", "Mul") or (nodes.kind == "Add" and nodes.is_constant(nodes.inputs[0]))

    def _norm(self) -> Norm:
        node = self._nodes.take("LayerNormalization")
        self._epsilons.add(node.attributes["epsilon"])
        return Norm(self._nodes.constant(node.inputs[1]), self._nodes.constant(node.inputs[2]))

    def _linear(self) -> Linear:
        smoothing = self._nodes.constant(self._nodes.take("Mul").inputs[1]) if self._nodes.kind == "Mul" else None
        codes = self._nodes.take("QuantizeLinear")
        node = self._nodes.take("MatMulIntegerToFloat")
        _, weight, scale, weight_scales, zero, weight_zero, bias = node.inputs
        if codes.inputs[1:] != (scale, zero) or weight_zero:
            raise UnsupportedError("a linear layer whose codes are not those that its product takes them for")
        if self._nodes.constant(zero).dtype != np.uint8:
            raise UnsupportedError(f"activations in {self._nodes.constant(zero).dtype} codes")
        return Linear(
            self._nodes.constant(weight),
            self._nodes.constant(weight_scales),
            self._nodes.constant(bias),
            float(self._nodes.constant(scale)),
            int(self._nodes.constant(zero)),
            smoothing,
        )

    def _block(self) -> Block:
        out: Linear | FloatArray
        if self._nodes.kind == "Add":  # no head is left
            qkv, heads, out = None, 0, self._added()
        else:
            qkv = self._linear()
            heads = self._attention()
            out = self._linear()
            self._nodes.take("Add")
        attention_norm = self._norm()
        if self._nodes.kind == "Add":
            return Block(qkv, out, None, self._added(), attention_norm, self._norm(), heads)
        up = self._linear()
        self._activations.add(_ACTIVATIONS[self._nodes.take(*_ACTIVATIONS).kind])
        down = self._linear()
        self._nodes.take("Add")
        return Block(qkv, out, up, down, attention_norm, self._norm(), heads)

    def _added(self) -> FloatArray:
        return self._nodes.constant(self._nodes.take("Add").inputs[0])

    def _attention(self) -> int:
        """Reads attention; returns the number of heads."""
        if self._nodes.kind == "If":  # the same, with and without a mask
            self._nodes.enter(self._nodes.take("If").attributes["else_branch"])
        taken = [self._nodes.take(kind) for kind in _ATTENTION]
        _, _, heads, width = self._nodes.constant(taken[2].inputs[1]).tolist()
        if not math.isclose(taken[7].attributes["alpha"], 1 / math.sqrt(width), rel_tol=1e-6):
            raise UnsupportedError(f"attention scores times {taken[7].attributes['alpha']} for heads of {width}")
        self._widths.add(width)
        return int(heads)

    def _head(self) -> tuple[str, bool]:
        """Pooling, and whether vectors get unit length."""
        kinds = []
        while self._nodes.kind != "the end":
            kinds.append(self._nodes.take(self._nodes.kind).kind)
        for pooling, steps in _POOLINGS.items():
            if kinds in ([*steps, "Identity"], [*steps, *_NORMALIZE, "Identity"]):
                return pooling, "ReduceL2" in kinds
        raise UnsupportedError(f"{', '.join(kinds[:8])} after the layers")
