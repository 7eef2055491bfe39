"""The packed graph of a post-layer-norm encoder: token ids in, pooled and normalised vectors out.

Tokens of all texts lie back to back, ``[T, H]``, without padding; only attention and pooling see the padded grid ``[B,
S]`` (see ``whit.runtime.packing``, which makes the inputs). Reads top to bottom like the model itself; how a linear
layer is computed is decided in ``linear``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from whit.contract.pooling import ditto_head, pooling_parts
from whit.export.checkpoint import Dense
from whit.export.embedding import emit_rows, store_rows
from whit.export.errors import CheckpointError
from whit.export.families import EncoderWeights, Layer, Norm
from whit.export.graph import FLOAT, INT64, MICROSOFT, Graph
from whit.export.linear import Plan, emit_linear

INPUTS = {
    "input_ids": (INT64, ["T"]),
    "position_ids": (INT64, ["T"]),
    "gather_idx": (INT64, ["B", "S"]),
    "key_mask": (FLOAT, ["B", "S"]),
    "scatter_idx": (INT64, ["T"]),
}
OUTPUT = "vectors"
LAYER_COUNT = "layer_count"  # an input, int64 [1], of a graph that can be run with fewer layers

# Added to the score of a cell that holds no token: exp() of it is exactly 0 beside any real score.
MASKED = -1e4


@dataclass(frozen=True, slots=True)
class Head:
    """What comes after the encoder; ``pooling`` is a name that ``whit.contract.pooling.is_pooling`` knows."""

    pooling: str
    dense: Sequence[Dense] = ()
    normalize: bool = True

    def dimension_count(self, hidden_count: int) -> int:
        """Values in a vector."""
        return int(self.dense[-1].weight.shape[1]) if self.dense else hidden_count * len(pooling_parts(self.pooling))


def build_graph(
    weights: EncoderWeights,
    head: Head,
    plan: Plan,
    *,
    unmasked_length: int = 0,
    depths: Sequence[int] = (),
    taps: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """Builds the graph.

    Args:
        weights: the encoder.
        head: pooling, dense modules, normalisation.
        plan: how each linear layer is computed, by its name (``layers.0.up``); what it does not name stays float32.
        unmasked_length: attention length that only texts of exactly so many tokens have; 0: none, which a relative bias and
            Ditto need.
        depths: numbers of layers after which it may end, ascending, fewer than all: the input ``layer_count`` says where
            (2-D Matryoshka, arXiv:2402.14776). What lies beyond is not computed, and every weight is there once. Ditto's
            layer must be among the first ``depths[0]``.
        taps: if given, filled with the name of the value that enters each linear layer, and these become outputs too.
    """
    g = Graph()
    ditto = _ditto_head(weights, head.pooling)
    attention = _Attention(g, weights, unmasked_length)
    x = _embed(g, weights, plan)
    first = diagonal = ""

    def layers(g: Graph, x: str, start: int, end: int) -> str:
        nonlocal first, diagonal
        for i in range(start, end):
            x = _layer(g, x, i, weights, plan, attention, _linear_emitter(g, weights.layers[i], plan, taps))
            first = first or x
            if ditto and ditto[0] == i:
                diagonal = attention.diagonal(g, ditto[1])
        return x

    ends = [*depths, len(weights.layers)]
    x = layers(g, x, 0, ends[0])
    for start, end in itertools.pairwise(ends):
        # Side by side, not one inside the other: two levels down onnxruntime leaves out optimisations, which changes bits.
        deeper = g.op("Greater", LAYER_COUNT, g.ints(start))
        x = g.choose(deeper, partial(layers, x=x, start=start, end=end), partial(_same, x=x))
    _finish(g, _pool(g, first, x, head.pooling, diagonal), head)
    outputs: dict[str, list[int | str]] = {OUTPUT: ["B", head.dimension_count(weights.hidden_count)]}
    for value in taps.values() if taps else ():
        outputs[value] = ["T", "K"]
    return g.model(INPUTS | ({LAYER_COUNT: (INT64, [1])} if depths else {}), outputs)


def _same(g: Graph, x: str) -> str:
    return g.op("Identity", x)


Emitter = Callable[[str, str], str]


def _linear_emitter(g: Graph, layer: Layer, plan: Plan, taps: dict[str, str] | None) -> Emitter:
    def emit(x: str, name: str) -> str:
        if taps is not None:
            taps[name] = x
        return emit_linear(g, x, plan.scheme(name, getattr(layer, name.rpartition(".")[2])))

    return emit


def _embed(g: Graph, weights: EncoderWeights, plan: Plan) -> str:
    words = store_rows(weights.words, "float32") if plan.words is None else plan.words
    # There are few positions, and each is in every text: they never have less than eight bits.
    positions = store_rows(weights.positions, "float32" if plan.words is None else "int8")
    x = g.op("Add", emit_rows(g, words, "input_ids"), emit_rows(g, positions, "position_ids"))
    x = _norm(g, x, weights.embedding_norm, weights.epsilon)
    if weights.projection is not None:
        x = g.op("Add", g.op("MatMul", x, g.const(weights.projection.weight)), g.const(weights.projection.bias))
    return x


def _layer(
    g: Graph, x: str, number: int, weights: EncoderWeights, plan: Plan, attention: _Attention, linear: Emitter
) -> str:
    layer, name = weights.layers[number], f"layers.{number}"
    heads, inner = weights.heads_of(layer), layer.up.weight.shape[1]
    # Where pruning left nothing of a block, its bias is all that it adds.
    change = linear(attention(g, linear(x, f"{name}.qkv"), heads), f"{name}.out") if heads else g.const(layer.out.bias)
    x = _norm(g, g.op("Add", change, x), layer.attention_norm, weights.epsilon)
    if inner:
        values = _activate(g, linear(x, f"{name}.up"), weights.activation)
        if layer.ceiling is not None and not plan.ends_at_ceiling(f"{name}.down"):
            values = g.op("Min", values, g.scalar(layer.ceiling))
        change = linear(values, f"{name}.down")
    else:
        change = g.const(layer.down.bias)
    return _norm(g, g.op("Add", change, x), layer.output_norm, weights.epsilon)


class _Attention:
    """Self-attention between the packed ``[T, 3H]`` and the packed ``[T, H]``.

    Query, key and value of a token are gathered as they lie, into ``[S, B, heads, width]``: matrix products take texts and
    heads as their batch from there. What comes out by head, ``[B, heads, S, width]``, is gathered back into the pack. So
    nothing is transposed in memory.
    """

    def __init__(self, g: Graph, weights: EncoderWeights, unmasked_length: int) -> None:
        self._width = weights.head_width
        head_counts = [heads for heads in dict.fromkeys(map(weights.heads_of, weights.layers)) if heads]
        first = g.op("Mul", g.op("Transpose", "gather_idx", perm=[1, 0]), g.ints(3))
        # Query, key and value of each token: their rows in the pack seen as [T * 3, heads * width].
        self._rows = [first, g.op("Add", first, g.ints(1)), g.op("Add", first, g.ints(2))]
        self._length = length = g.op("Shape", "gather_idx", start=1, end=2)
        text, cell = g.op("Div", "scatter_idx", length), g.op("Mod", "scatter_idx", length)
        self._back = {heads: _back_of(g, heads, text, cell, length) for heads in head_counts}
        empty = g.op("Sub", g.scalar(1), "key_mask")
        bias = g.op("Unsqueeze", g.op("Mul", empty, g.scalar(MASKED)), g.ints(1, 2))  # [B, 1, 1, S]
        if weights.relative_bias is not None:
            self._bias = g.op("Add", bias, _relative_bias(g, weights.relative_bias, length))
        else:  # [B, 1, S, S]: adding a row of 16 again and again takes seven times as long as adding a square
            self._bias = g.op("Expand", bias, g.op("Concat", g.ints(1, 1), length, g.ints(1), axis=0))

        self._unmasked_length = unmasked_length
        if unmasked_length:
            self._is_full = g.op("Equal", length, g.ints(unmasked_length))

    def __call__(self, g: Graph, qkv: str, heads: int) -> str:
        """``qkv`` [T, 3 * heads * width] to [T, heads * width]."""
        if not self._unmasked_length:
            return self._masked(g, qkv, heads)
        return g.choose(self._is_full, lambda g: self._unmasked(g, qkv, heads), lambda g: self._masked(g, qkv, heads))

    def _unmasked(self, g: Graph, qkv: str, heads: int) -> str:
        """Every cell of the grid holds a token: the pack is the grid, and the scores need never be in memory (flash)."""
        size = heads * self._width
        grid = g.op("Reshape", qkv, g.ints(-1, self._unmasked_length, 3 * size))
        ends = range(0, 3 * size + 1, size)
        parts = [g.op("Slice", grid, g.ints(a), g.ints(b), g.ints(2)) for a, b in itertools.pairwise(ends)]
        context = g.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=heads)
        return g.op("Reshape", context, g.ints(-1, size))

    def _masked(self, g: Graph, qkv: str, heads: int) -> str:
        rows = g.op("Reshape", qkv, g.ints(-1, heads * self._width))
        query, key, value = (
            g.op("Reshape", g.op("Gather", rows, index), g.ints(0, 0, heads, self._width)) for index in self._rows
        )
        scores = g.op(
            "FusedMatMul",
            *(query, key),
            domain=MICROSOFT,
            transBatchA=1,
            transBatchB=1,
            transB=1,
            alpha=1 / math.sqrt(self._width),
        )  # [B, heads, S, S]
        self._attention = g.op("Softmax", g.op("Add", scores, self._bias), axis=-1)
        context = g.op("FusedMatMul", self._attention, value, domain=MICROSOFT, transBatchB=1)
        by_head = g.op("Reshape", context, g.ints(-1, self._width))
        return g.op("Reshape", g.op("Gather", by_head, self._back[heads]), g.ints(-1, heads * self._width))

    def diagonal(self, g: Graph, head: int) -> str:
        """How much each token attends to itself in one head of the layer just made: [B, S], 0 in empty cells."""
        one = g.op("Gather", self._attention, g.const(np.array(head, np.int64)), axis=1)
        places = g.op("Mul", _cells(g, self._length), g.op("Add", self._length, g.ints(1)))
        own = g.op("Gather", g.op("Flatten", one, axis=1), places, axis=1)
        return g.op("Mul", own, "key_mask")


def _back_of(g: Graph, heads: int, text: str, cell: str, length: str) -> str:
    """Row of (token, head) in the attention output seen as [B * heads * S, width]."""
    head_ids = np.arange(heads, dtype=np.int64)
    text_head = g.op(
        "Add", g.op("Unsqueeze", g.op("Mul", text, g.ints(heads)), g.ints(1)), g.const(head_ids.reshape(1, heads))
    )
    return g.op("Add", g.op("Mul", text_head, length), g.op("Unsqueeze", cell, g.ints(1)))


# From this distance on, the bias no longer changes.
MAX_DISTANCE = 128


def relative_buckets(distances: NDArray[np.int64], bucket_count: int) -> NDArray[np.int64]:
    """Bucket of each distance (key position - query position), as in MPNet and T5 (arXiv:1910.10683, section 2.1)."""
    half = bucket_count // 2
    ahead = np.where(distances > 0, half, 0)
    distance = np.abs(distances)
    exact = half // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(MAX_DISTANCE / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return (ahead + np.where(distance < exact, distance, far)).astype(np.int64)


def _relative_bias(g: Graph, table: NDArray[np.float32], length: str) -> str:
    """Bias [1, heads, S, S] from the table [buckets, heads], for any S."""
    distances = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    by_distance = table[relative_buckets(distances, len(table))]  # [2 * MAX_DISTANCE + 1, heads]
    cells = _cells(g, length)
    distance = g.op("Sub", g.op("Unsqueeze", cells, g.ints(0)), g.op("Unsqueeze", cells, g.ints(1)))
    ends = [g.const(np.array(end, np.int64)) for end in (-MAX_DISTANCE, MAX_DISTANCE)]
    row = g.op("Add", g.op("Clip", distance, *ends), g.ints(MAX_DISTANCE))
    rows = g.op("Gather", g.const(by_distance), row)  # [S, S, heads]
    return g.op("Unsqueeze", g.op("Transpose", rows, perm=[2, 0, 1]), g.ints(0))


def _cells(g: Graph, length: str) -> str:
    """0, 1, ... up to a length [1]."""
    zero, one = (g.const(np.array(n, np.int64)) for n in (0, 1))
    return g.op("Range", zero, g.op("Squeeze", length, g.ints(0)), one)


def _norm(g: Graph, x: str, norm: Norm, epsilon: float) -> str:
    return g.op("LayerNormalization", x, g.const(norm.gain), g.const(norm.bias), axis=-1, epsilon=epsilon)


def _activate(g: Graph, x: str, kind: str) -> str:
    match kind:
        case "gelu":
            return g.op("Gelu", x, domain=MICROSOFT)
        case "gelu_tanh":
            return g.op("FastGelu", x, domain=MICROSOFT)
        case "relu" | "tanh":
            return g.op(kind.capitalize(), x)
        case _:
            return x


def _pool(g: Graph, first: str, x: str, pooling: str, diagonal: str) -> str:
    """One row a text, [B, H * parts], from what leaves the first layer and the last, [T, H]; ``diagonal`` is for Ditto."""
    parts = [_pool_once(g, first, x, part, diagonal) for part in pooling_parts(pooling)]
    return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=1)


def _pool_once(g: Graph, first: str, x: str, pooling: str, diagonal: str) -> str:
    """One row a text, [B, H]; ``diagonal`` weighs tokens for Ditto."""
    if pooling in ("cls", "pooler"):
        return g.op("Gather", x, g.op("Gather", "gather_idx", g.const(np.array(0, np.int64)), axis=1))
    if pooling == "max":
        empty = g.op("Unsqueeze", g.op("Mul", g.op("Sub", g.scalar(1), "key_mask"), g.scalar(-3e38)), g.ints(2))
        return g.op("ReduceMax", g.op("Add", g.op("Gather", x, "gather_idx"), empty), axes=[1], keepdims=0)
    if pooling == "first_last" or diagonal:
        x = g.op("Mul", g.op("Add", first, x), g.scalar(0.5))
    weights = diagonal or "key_mask"
    if pooling == "weighted_mean":  # SGPT (arXiv:2202.08904): a token counts by its place
        place = g.op("CumSum", "key_mask", g.const(np.array(1, np.int64)))
        weights = g.op("Mul", place, "key_mask")
    # The sum as a matrix product over the text's own grid: S terms in a fixed order, whoever shares the batch.
    total = g.op("MatMul", g.op("Unsqueeze", weights, g.ints(1)), g.op("Gather", x, "gather_idx"))
    share = g.op("ReduceSum", weights, g.ints(1), keepdims=1)
    if pooling == "mean_sqrt_len":
        share = g.op("Sqrt", share)
    return g.op("Div", g.op("Squeeze", total, g.ints(1)), share)


def _ditto_head(weights: EncoderWeights, pooling: str) -> tuple[int, int] | None:
    """Layer and head whose diagonal weighs the tokens (Ditto, arXiv:2305.10786); None for any other pooling.

    Raises:
        CheckpointError: the encoder has no such layer or head.
    """
    found = ditto_head(pooling)
    if found:
        layer, head = found
        counts = [weights.heads_of(each) for each in weights.layers]
        if layer >= len(counts) or head >= counts[layer]:
            raise CheckpointError(
                f"pooling {pooling!r} names layer {layer + 1}, head {head + 1}, but the model has {len(counts)} layers of "
                f"{counts[min(layer, len(counts) - 1)]} heads; choose others"
            )
    return found


def _finish(g: Graph, v: str, head: Head) -> None:
    for dense in head.dense:
        v = g.op("MatMul", v, g.const(dense.weight))
        if dense.bias is not None:
            v = g.op("Add", v, g.const(dense.bias))
        v = _activate(g, v, dense.activation)
    if head.normalize:
        norm = g.op("ReduceL2", v, axes=[1], keepdims=1)
        v = g.op("Div", v, g.op("Max", norm, g.scalar(1e-12)))
    g.op("Identity", v, output=OUTPUT)


def tap_outputs(taps: Mapping[str, str]) -> list[str]:
    """Distinct tapped values, in order."""
    return list(dict.fromkeys(taps.values()))
