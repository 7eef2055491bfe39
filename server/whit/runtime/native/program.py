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
from whit.runtime.native.head import read_dense, read_end, read_pooling
from whit.runtime.native.onnx_file import OnnxGraph
from whit.runtime.native.parts import (
    AnyLinear,
    Block,
    FloatArray,
    FloatLinear,
    Linear,
    Norm,
    Program,
    RowLinear,
    UnsupportedError,
)

# After query and key are gathered; the first form is the one that whit wrote before it gathered whole rows.
_ATTENTION = {"Gather": ("Gather", "Gather"), "Reshape": ("Reshape", *("Gather", "Reshape") * 2)}
_ACTIVATIONS = {"FastGelu": "gelu_tanh", "Gelu": "gelu", "Relu": "relu"}


def read_program(graph: OnnxGraph) -> Program:
    """The model that a graph computes.

    Raises:
        UnsupportedError: it has something that the kernels do not know.
    """
    try:
        return _Reader(graph).read()
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        # A node with too few inputs or attributes, an array of another shape, heads of no width.
        raise UnsupportedError(f"a graph that whit would not write ({error!r})") from None


class _Reader:
    def __init__(self, graph: OnnxGraph) -> None:
        # What comes before is arithmetic on the indices of the padded grid, which the kernels have no use for.
        self._nodes = Cursor(graph, "input_ids")
        self._widths: set[int] = set()
        self._activations: set[str] = set()
        self._epsilons: set[float] = set()
        self._weighing: tuple[int, int] | None = None

    def read(self) -> Program:
        nodes = self._nodes
        words, positions = read_rows(nodes), read_rows(nodes)
        nodes.take("Add")
        norm = self._norm()
        projection, blocks = self._blocks()
        pooling = read_pooling(nodes, weighed=self._weighing is not None)
        dense = read_dense(nodes)
        return Program(
            words=words,
            positions=positions,
            embedding_norm=norm,
            epsilon=self._one(self._epsilons, "epsilon"),
            blocks=blocks,
            head_width=self._one(self._widths, "head width"),
            activation=self._one(self._activations, "activation"),
            pooling=pooling,
            normalize=read_end(nodes),
            relative_bias=self._relative_bias(blocks),
            projection=projection,
            weighing=self._weighing,
            dense=dense,
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

    def _norm(self) -> Norm:
        node = self._nodes.take("LayerNormalization")
        self._epsilons.add(node.attributes["epsilon"])
        return Norm(self._nodes.constant(node.inputs[1]), self._nodes.constant(node.inputs[2]))

    def _linear(self) -> AnyLinear:
        """``emit_linear`` of ``whit.export.linear``, scheme by scheme."""
        nodes = self._nodes
        if nodes.kind == "MatMul":
            values = nodes.constant(nodes.take("MatMul").inputs[1])
            return FloatLinear(values, nodes.constant(nodes.take("Add").inputs[1]))
        if nodes.kind == "Abs":
            nodes.take_all("Abs", "ReduceMax", "Mul", "Max", "Div", "Round", "Add", "Cast")
            node = nodes.take("MatMulIntegerToFloat")
            added = nodes.constant(nodes.take_all("Mul", "Add").inputs[1])
            return RowLinear(nodes.constant(node.inputs[1]), nodes.constant(node.inputs[3]), added)
        smoothing = nodes.constant(nodes.take("Mul").inputs[1]) if nodes.kind == "Mul" else None
        codes, node = nodes.take("QuantizeLinear"), nodes.take("MatMulIntegerToFloat")
        _, weight, scale, weight_scales, zero, weight_zero, bias = node.inputs
        if codes.inputs[1:] != (scale, zero) or weight_zero:
            raise UnsupportedError("a linear layer whose codes are not those that its product takes them for")
        if nodes.constant(zero).dtype != np.uint8:
            raise UnsupportedError(f"activations in {nodes.constant(zero).dtype} codes")
        return Linear(
            nodes.constant(weight),
            nodes.constant(weight_scales),
            nodes.constant(bias),
            float(nodes.constant(scale)),
            int(nodes.constant(zero)),
            smoothing,
        )

    def _blocks(self) -> tuple[FloatLinear | None, list[Block]]:
        """A projection of the embeddings, and the layers. Both may begin with a float32 product: attention tells them apart."""
        nodes, projection, blocks = self._nodes, None, []
        if nodes.kind == "MatMul":
            first = self._linear()
            if nodes.kind in ("Reshape", "If"):
                blocks.append(self._block(first))
            elif isinstance(first, FloatLinear):
                projection = first
        while self._is_block() or nodes.kind == "Greater":
            if nodes.kind == "Greater":  # a request may end here; if not:
                nodes.take("Greater")
                nodes.enter(nodes.take("If").attributes["then_branch"])
            blocks.append(self._block())
            if nodes.kind == "Gather" and nodes.inputs[0] != "gather_idx":
                self._weighing = len(blocks) - 1, self._diagonal()
        return projection, blocks

    def _is_block(self) -> bool:
        """Whether what comes next is a layer. A layer without heads begins by adding a bias; pooling may add, too."""
        nodes = self._nodes
        begins = nodes.kind in ("QuantizeLinear", "Mul", "Abs", "MatMul")
        return begins or (nodes.kind == "Add" and nodes.is_constant(nodes.inputs[0]))

    def _block(self, qkv: AnyLinear | None = None) -> Block:
        """A layer; ``qkv`` if that was read before."""
        out: AnyLinear | FloatArray
        if qkv is None and self._nodes.kind == "Add":  # no head is left
            heads, out = 0, self._added()
        else:
            qkv = qkv or self._linear()
            heads = self._attention()
            out = self._linear()
            self._nodes.take("Add")
        attention_norm = self._norm()
        if self._nodes.kind == "Add":
            return Block(qkv, out, None, self._added(), attention_norm, self._norm(), heads)
        up = self._linear()
        self._activations.add(_ACTIVATIONS[self._nodes.take(*_ACTIVATIONS).kind])
        ceiling = math.inf
        if self._nodes.kind == "Min":
            ceiling = float(self._nodes.constant(self._nodes.take("Min").inputs[1]))
        down = self._linear()
        self._nodes.take("Add")
        return Block(qkv, out, up, down, attention_norm, self._norm(), heads, ceiling)

    def _added(self) -> FloatArray:
        return self._nodes.constant(self._nodes.take("Add").inputs[0])

    def _attention(self) -> int:
        """Reads attention; returns the number of heads."""
        if self._nodes.kind == "If":  # the same, with and without a mask
            self._nodes.enter(self._nodes.take("If").attributes["else_branch"])
        self._nodes.take_all("Reshape", "Gather")
        self._nodes.take_all(*_ATTENTION.get(self._nodes.kind, ("Reshape",)))
        alpha = self._nodes.take("FusedMatMul").attributes["alpha"]
        self._nodes.take_all("Add", "Softmax")
        self._nodes.take("FusedMatMul", "MatMul")
        width = int(self._nodes.constant(self._nodes.take("Reshape").inputs[1])[1])
        size = int(self._nodes.constant(self._nodes.take_all("Gather", "Reshape").inputs[1])[1])
        if not math.isclose(alpha, 1 / math.sqrt(width), rel_tol=1e-6):
            raise UnsupportedError(f"attention scores times {alpha} for heads of {width}")
        self._widths.add(width)
        return size // width

    def _diagonal(self) -> int:
        """Reads how much each token attends to itself in one head of the layer before; returns the head."""
        head = int(self._nodes.constant(self._nodes.take("Gather").inputs[1]))
        self._nodes.take_all("Squeeze", "Range", "Add", "Mul", "Flatten", "Gather", "Mul")
        return head
