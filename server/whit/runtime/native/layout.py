"""A program's weights in memory, as the C code (``encoder.c``) reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native import structures as c
from whit.runtime.native.coupling import Couple, coupled
from whit.runtime.native.curves import curve, laid_out
from whit.runtime.native.fitting import check_program
from whit.runtime.native.memory import Memory
from whit.runtime.native.parts import (
    AnyLinear,
    Block,
    FloatArray,
    FloatLinear,
    Linear,
    Norm,
    Program,
    RowLinear,
    Rows,
    UnsupportedError,
)

PANEL = 32
LANES = 16
_MOST_OF_A_PAIR = 128  # docs/adr/0006-saturation-free-int8.md
_ROW_ZERO = 128  # the code of 0 where each token has a scale of its own
# Pooling, and whether the states pooled are the average of the first layer's and the last's.
_POOLINGS = {
    "mean": (c.MEAN, False),
    "cls": (c.FIRST, False),
    "max": (c.LARGEST, False),
    "mean_sqrt_len": (c.BY_ROOT, False),
    "weighted_mean": (c.BY_PLACE, False),
    "first_last": (c.MEAN, True),
    "ditto": (c.BY_HEAD, True),
}


class Layout:
    """A program laid out: ``model`` points to memory that lives as long as this object.

    Args:
        code_offset: as in ``Library``.
        couple: ``Library.couple`` for a processor that saturates, or None.

    Raises:
        UnsupportedError: it has sizes that the kernels cannot do, or that do not fit together; or its weights are too large
            for a processor that saturates.
    """

    def __init__(
        self, program: Program, *, position_offset: int, code_offset: int = 0, couple: Couple | None = None
    ) -> None:
        check_program(program)
        self._code_offset, self._couple = code_offset, couple
        reach = program.positions.token_count - position_offset
        if position_offset < 0 or reach < 1:
            raise UnsupportedError(
                f"{program.positions.token_count} positions, of which the first is {position_offset}"
            )
        self._memory = Memory()
        self._head_width, self._head_panels = program.head_width, -(-program.head_width // PANEL)
        embedding_width, width = program.words.width, len(program.blocks[0].output_norm.gain)
        for size in (embedding_width, width):
            if size % PANEL:
                raise UnsupportedError(f"a width of {size}, which is no multiple of {PANEL}")
        layers = (c.CLayer * len(program.blocks))(*(self._layer(block) for block in program.blocks))
        dense = (c.CDense * len(program.dense))(
            *(c.CDense(self._linear(each.linear), c.ACTIVATIONS.index(each.activation)) for each in program.dense)
        )
        pooling, averages = _POOLINGS[program.pooling]
        self.model = c.CModel(
            words=self._rows(program.words),
            positions=self._rows(program.positions),
            norm=self._norm(program.embedding_norm),
            layers=layers,
            dense=dense,
            layer_count=len(layers),
            dense_count=len(dense),
            embedding_width=embedding_width,
            width=width,
            dimension_count=len(program.dense[-1].linear.bias) if dense else width,
            head_width=program.head_width,
            head_panels=self._head_panels,
            most_heads=max(layer.head_count for layer in layers),
            most_inner=max(layer.inner_count for layer in layers),
            most_wide=max(map(_wide, layers)),
            most_pooled=max([width, *(each.linear.panel_count * PANEL for each in dense)]),
            position_offset=position_offset,
            curve=self._memory.hold(laid_out(curve(program.activation))),
            epsilon=program.epsilon,
            pooling=pooling,
            averages=averages,
            normalize=program.normalize,
        )
        if program.projection is not None:
            self.model.projection = self._linear(program.projection)
            self.model.most_wide = max(self.model.most_wide, embedding_width)
        if program.relative_bias is not None:
            self.model.relative_bias = self._memory.hold(_by_distance(program.relative_bias, reach))
            self.model.relative_reach = reach
        if program.weighing is not None:
            layer, head = program.weighing
            layers[layer].weighing_head = head

    def _rows(self, rows: Rows) -> c.CRows:
        laid = c.CRows(kind=c.FLOATS, codes=self._memory.hold(rows.codes))
        if rows.places is not None:
            laid.places = self._memory.hold(rows.places)
        if rows.scales is not None:
            laid.kind, laid.scales, laid.scale_count = c.BYTES, self._memory.hold(rows.scales), 1
        if rows.scales is not None and rows.is_packed:
            laid.kind, laid.scale_count = c.PAIRS, rows.scales.shape[1]
            laid.scale_of = self._memory.hold((np.arange(rows.width) * laid.scale_count // rows.width).astype(np.int32))
        if rows.centroids is not None:
            laid.kind, laid.code_count = c.PRODUCTS, rows.codes.shape[1]
            laid.centroids = self._memory.hold(rows.centroids)
        return laid

    def _norm(self, norm: Norm) -> c.CNorm:
        return c.CNorm(self._memory.hold(norm.gain), self._memory.hold(norm.bias))

    def _layer(self, block: Block) -> c.CLayer:
        inner = 0 if block.up is None else -(-len(block.up.bias) // PANEL) * PANEL
        layer = c.CLayer(
            attention_norm=self._norm(block.attention_norm),
            output_norm=self._norm(block.output_norm),
            head_count=block.head_count,
            inner_count=inner,
            weighing_head=-1,
            ceiling=block.ceiling,
        )
        if block.qkv is not None:
            layer.qkv = self._linear(block.qkv, heads=block.head_count)
        if isinstance(block.out, np.ndarray):
            layer.out = c.CLinear(biases=self._memory.hold(block.out))
        else:  # what is rounded by token is rounded sixteen values at a time
            layer.out = self._linear(block.out, multiple=4 if isinstance(block.out, Linear) else LANES)
        if block.up is not None:
            layer.up = self._linear(block.up)
        if isinstance(block.down, np.ndarray):
            layer.down = c.CLinear(biases=self._memory.hold(block.down))
        else:
            layer.down = self._linear(block.down, multiple=PANEL)
        return layer

    def _linear(self, linear: AnyLinear, *, multiple: int = 4, heads: int = 0) -> c.CLinear:
        """Packs a layer, its inputs padded to a ``multiple`` with weights of 0, its outputs to whole panels.

        ``heads``: of the layer that makes query, key and value: outputs by head, then query, key and value, each in panels of
        its own; queries are divided by the root of the head's width.
        """
        weights = linear.weight if isinstance(linear, FloatLinear) else linear.codes
        inputs, outputs = weights.shape
        arrange, factors = _padded, np.ones(outputs, np.float32)
        if heads:
            arrange = self._by_head
            factors[: outputs // 3] = np.float32(1 / math.sqrt(self._head_width))
        deep = -(-inputs // multiple) * multiple

        def scaled(values: NDArray[Any]) -> int:
            return self._memory.hold(arrange(values * factors))

        key, bias = (id(weights), deep, heads), scaled(linear.bias)
        laid = c.CLinear(late_biases=bias, input_count=deep, panel_count=arrange(factors).size // PANEL)
        if isinstance(linear, FloatLinear):
            laid.scheme = c.FLOAT
            (laid.weights,) = self._memory.hold_once(
                key, lambda: [_float_panels(arrange(linear.weight * factors), deep)]
            )
            return laid
        if self._couple and _can_saturate(linear.codes):
            raise UnsupportedError("weights that add up to more than 16 bits in pairs, as this CPU adds them")
        self._lay_codes(laid, key, lambda: _code_panels(arrange(linear.codes), deep))
        sums = arrange(linear.codes.sum(axis=0, dtype=np.int32))
        if isinstance(linear, RowLinear):
            laid.scheme, laid.zero = c.BY_TOKEN, _ROW_ZERO
            laid.scales = scaled(linear.weight_scales)
            laid.biases = self._memory.hold(np.zeros(len(sums), np.float32))
        else:
            laid.scheme, laid.zero, laid.biases = c.CALIBRATED, linear.zero_point, bias
            laid.scales = scaled(linear.weight_scales * np.float32(linear.scale))
            smoothing = np.ones(inputs, np.float32) if linear.smoothing is None else linear.smoothing
            laid.factors = self._memory.hold(np.pad(smoothing / np.float32(linear.scale), (0, 2 * PANEL)))
        laid.starts = self._memory.hold(((self._code_offset - laid.zero) * sums).astype(np.int32))
        return laid

    def _lay_codes(self, laid: c.CLinear, key: Hashable, make: Callable[[], NDArray[np.int8]]) -> None:
        """Lays out codes int8 [panels, inputs / 4, 32, 4], in couples if the processor wants them so."""
        couple = self._couple
        if couple is None:
            (laid.weights,) = self._memory.hold_once(key, lambda: [make()])
        else:
            laid.weights, laid.order, laid.couples = self._memory.hold_once(key, lambda: coupled(make(), couple))

    def _by_head(self, columns: NDArray[Any]) -> NDArray[Any]:
        width, padded = self._head_width, self._head_panels * PANEL
        by_head = columns.reshape(*columns.shape[:-1], 3, -1, width).swapaxes(-3, -2)
        pad = [(0, 0)] * (by_head.ndim - 1) + [(0, padded - width)]
        return np.pad(by_head, pad).reshape(*columns.shape[:-1], -1)


def _padded(columns: NDArray[Any]) -> NDArray[Any]:
    return np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, -columns.shape[-1] % PANEL)])


def _code_panels(codes: NDArray[np.int8], deep: int) -> NDArray[np.int8]:
    """int8 [panels, deep / 4, 32, 4] of [inputs, outputs]."""
    padded = np.pad(codes, ((0, deep - len(codes)), (0, 0)))
    return padded.reshape(deep // 4, 4, -1, PANEL).transpose(2, 0, 3, 1)


def _can_saturate(codes: NDArray[np.int8]) -> bool:
    """Whether 255 times the weights [inputs, outputs] of inputs 2i and 2i + 1 may add up to more than an int16."""
    pairs = codes[: len(codes) // 2 * 2].reshape(-1, 2, codes.shape[1]).sum(axis=1, dtype=np.int16)
    return bool(np.abs(pairs).max(initial=0) > _MOST_OF_A_PAIR)


def _float_panels(weights: FloatArray, deep: int) -> FloatArray:
    """float32 [panels, deep, 32] of [inputs, outputs]."""
    padded = np.pad(weights, ((0, deep - len(weights)), (0, 0)))
    return padded.reshape(deep, -1, PANEL).transpose(1, 0, 2)


def _wide(layer: c.CLayer) -> int:
    """Floats of a token that a layer's linear layers need all at once."""
    context = 0 if layer.out.scheme == c.CALIBRATED else layer.out.input_count
    inner = layer.inner_count if layer.down.scheme != c.CALIBRATED or math.isfinite(layer.ceiling) else 0
    return int(max(context, inner))


def _by_distance(table: FloatArray, reach: int) -> FloatArray:
    """float32 [heads, 2 * reach + LANES] from [2 * n + 1, heads]: the biases of keys reach ahead to as far behind; beyond n like n."""
    most = len(table) // 2
    distances = np.clip(np.arange(reach, -reach - LANES, -1), -most, most)
    return np.ascontiguousarray(table[distances + most].T)
