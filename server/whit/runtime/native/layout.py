"""A program's weights in memory, as the C code (``encoder.c``) reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.curves import curve
from whit.runtime.native.fitting import check_program
from whit.runtime.native.parts import Block, FloatArray, Linear, Norm, Program, Rows, UnsupportedError
from whit.runtime.native.structures import (
    BYTES,
    FLOATS,
    PAIRS,
    PRODUCTS,
    CLayer,
    CLinear,
    CModel,
    CNorm,
    CQuantizer,
    CRows,
)

PANEL = 32
LANES = 16
_ALIGNMENT = 64  # bytes of a cache line
_POOLINGS = {"mean": 0, "cls": 1}


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """uint8 [size] that begins at a cache line."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


class Layout:
    """A program laid out: ``model`` points to memory that lives as long as this object.

    Raises:
        UnsupportedError: it has sizes that the kernels cannot do, or that do not fit together.
    """

    def __init__(self, program: Program, *, position_offset: int) -> None:
        check_program(program)
        self._held: list[Any] = []
        width = program.embedding_norm.gain.shape[0]
        if width % PANEL:
            raise UnsupportedError(f"a width of {width}, which is no multiple of {PANEL}")
        self._head_width, self._head_panels = program.head_width, -(-program.head_width // PANEL)
        layers = (CLayer * len(program.blocks))(*(self._layer(block) for block in program.blocks))
        positions = program.positions.token_count - position_offset
        if position_offset < 0 or positions < 1:
            raise UnsupportedError(
                f"{program.positions.token_count} positions, of which the first is {position_offset}"
            )
        self.model = CModel(
            words=self._rows(program.words),
            positions=self._rows(program.positions),
            norm=self._norm(program.embedding_norm),
            layers=layers,
            layer_count=len(layers),
            width=width,
            head_width=program.head_width,
            head_panels=self._head_panels,
            most_heads=max(layer.head_count for layer in layers),
            most_inner=max(layer.inner_count for layer in layers),
            position_offset=position_offset,
            curve=self._hold(curve(program.activation)),
            epsilon=program.epsilon,
            pooling=_POOLINGS[program.pooling],
            normalize=program.normalize,
        )
        if program.relative_bias is not None:
            self.model.relative_bias = self._hold(_by_distance(program.relative_bias, positions))
            self.model.relative_reach = positions

    def _hold(self, array: NDArray[Any]) -> int:
        """Address of a copy of the array that lives as long as the model, at the start of a cache line."""
        memory = aligned_memory(array.nbytes)
        memory.view(array.dtype).reshape(array.shape)[...] = array
        self._held.append(memory)
        return memory.ctypes.data

    def _rows(self, rows: Rows) -> CRows:
        laid = CRows(kind=FLOATS, codes=self._hold(rows.codes))
        if rows.places is not None:
            laid.places = self._hold(rows.places)
        if rows.scales is not None:
            laid.kind, laid.scales, laid.scale_count = BYTES, self._hold(rows.scales), 1
        if rows.scales is not None and rows.is_packed:
            laid.kind, laid.scale_count = PAIRS, rows.scales.shape[1]
            laid.scale_of = self._hold((np.arange(rows.width) * laid.scale_count // rows.width).astype(np.int32))
        if rows.centroids is not None:
            laid.kind, laid.code_count, laid.centroids = PRODUCTS, rows.codes.shape[1], self._hold(rows.centroids)
        return laid

    def _norm(self, norm: Norm) -> CNorm:
        return CNorm(self._hold(norm.gain), self._hold(norm.bias))

    def _layer(self, block: Block) -> CLayer:
        heads, inner = block.head_count, 0 if block.up is None else -(-block.up.codes.shape[1] // PANEL) * PANEL
        layer = CLayer(
            attention_norm=self._norm(block.attention_norm),
            output_norm=self._norm(block.output_norm),
            head_count=heads,
            inner_count=inner,
        )
        if block.qkv is not None:
            layer.qkv, layer.qkv_codes = self._linear(self._by_head(block.qkv, heads)), self._quantizer(block.qkv)
        if isinstance(block.out, Linear):
            layer.out, layer.out_codes = self._linear(block.out), self._quantizer(block.out)
        else:
            layer.out = CLinear(biases=self._hold(block.out))
        if block.up is not None:
            layer.up, layer.up_codes = self._linear(block.up), self._quantizer(block.up)
        if isinstance(block.down, Linear):
            layer.down, layer.down_codes = self._linear(block.down, inner), self._quantizer(block.down)
        else:
            layer.down = CLinear(biases=self._hold(block.down))
        return layer

    def _by_head(self, qkv: Linear, heads: int) -> Linear:
        """Columns as the kernel wants them: by head, then query, key and value, each padded to whole panels."""
        width, padded = self._head_width, self._head_panels * PANEL

        def arrange(columns: NDArray[Any]) -> NDArray[Any]:
            by_head = columns.reshape(*columns.shape[:-1], 3, heads, width).swapaxes(-3, -2)
            pad = [(0, 0)] * (by_head.ndim - 1) + [(0, padded - width)]
            return np.pad(by_head, pad).reshape(*columns.shape[:-1], -1)

        size = heads * width
        queries = np.where(np.arange(3 * size) < size, np.float32(1 / math.sqrt(width)), np.float32(1))
        return Linear(
            arrange(qkv.codes),
            arrange(qkv.weight_scales * queries),
            arrange(qkv.bias * queries),
            qkv.scale,
            qkv.zero_point,
            qkv.smoothing,
        )

    def _linear(self, linear: Linear, input_count: int = 0) -> CLinear:
        """Packs weights; ``input_count`` pads the inputs, of which there are otherwise as many as a multiple of 4 holds."""
        inputs, outputs = linear.codes.shape
        deep, wide = input_count or -(-inputs // 4) * 4, -(-outputs // PANEL) * PANEL
        codes = np.zeros((deep, wide), np.int8)
        codes[:inputs, :outputs] = linear.codes
        panels = codes.reshape(deep // 4, 4, wide // PANEL, PANEL).transpose(2, 0, 3, 1)

        def padded(values: NDArray[Any]) -> NDArray[Any]:
            return np.pad(values, (0, wide - outputs))

        offsets = linear.zero_point * codes.sum(axis=0, dtype=np.int32)
        return CLinear(
            self._hold(panels),
            self._hold(padded(np.broadcast_to(linear.weight_scales, outputs) * np.float32(linear.scale))),
            self._hold(offsets.astype(np.int32)),
            self._hold(padded(linear.bias)),
            deep,
            wide // PANEL,
        )

    def _quantizer(self, linear: Linear) -> CQuantizer:
        inputs = linear.codes.shape[0]
        factors = np.ones(inputs, np.float32) if linear.smoothing is None else linear.smoothing
        return CQuantizer(self._hold(np.pad(factors / np.float32(linear.scale), (0, 2 * PANEL))), linear.zero_point)


def _by_distance(table: FloatArray, reach: int) -> FloatArray:
    """float32 [heads, 2 * reach + LANES] from [2 * n + 1, heads]: the biases of distances -reach on, those beyond n like n."""
    most = len(table) // 2
    distances = np.clip(np.arange(-reach, reach + LANES), -most, most)
    return np.ascontiguousarray(table[distances + most].T)
