"""The C library (``encoder.c``): a program's weights as it reads them, and the call."""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.curves import curve
from whit.runtime.native.parts import Block, Linear, Norm, Program, Rows, UnsupportedError

PANEL = 32
_ALIGNMENT = 64  # bytes of a cache line
# Part of encoder.c, in its order.
PARTS = ("embed", "qkv", "attention", "out", "up", "down", "norm", "pool")
_FLOATS, _BYTES, _PAIRS, _PRODUCTS = range(4)  # RowKind of rows.h
_POOLINGS = {"mean": 0, "cls": 1}


class _Linear(Structure):
    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("offsets", c_void_p),
        ("biases", c_void_p),
        ("input_count", c_int64),
        ("panel_count", c_int64),
    )


class _Quantizer(Structure):
    _fields_ = (("factors", c_void_p), ("zero", c_int32))


class _Norm(Structure):
    _fields_ = (("gain", c_void_p), ("bias", c_void_p))


class _Rows(Structure):
    _fields_ = (
        ("kind", c_int32),
        ("places", c_void_p),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("scale_count", c_int64),
        ("scale_of", c_void_p),
        ("centroids", c_void_p),
        ("code_count", c_int64),
    )


class _Layer(Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        *((name, _Quantizer) for name in ("qkv_codes", "out_codes", "up_codes", "down_codes")),
        ("attention_norm", _Norm),
        ("output_norm", _Norm),
        ("head_count", c_int64),
        ("inner_count", c_int64),
    )


class _Model(Structure):
    _fields_ = (
        ("words", _Rows),
        ("positions", _Rows),
        ("norm", _Norm),
        ("layers", POINTER(_Layer)),
        ("layer_count", c_int64),
        ("width", c_int64),
        ("head_width", c_int64),
        ("head_panels", c_int64),
        ("most_heads", c_int64),
        ("most_inner", c_int64),
        ("position_offset", c_int64),
        ("relative_bias", c_void_p),
        ("relative_reach", c_int64),
        ("curve", c_void_p),
        ("epsilon", c_float),
        ("pooling", c_int32),
        ("normalize", c_int32),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        UnsupportedError: they are not there, this system cannot load them, or they belong to another version of whit.
    """
    sizes = (c_int64 * 2)()
    try:
        library = ctypes.CDLL(str(path))
        library.whit_sizes(sizes)
    except OSError as error:
        raise UnsupportedError(f"they are not compiled for this system ({error})") from None
    except AttributeError:
        pass
    if list(sizes) != [ctypes.sizeof(_Model), ctypes.sizeof(_Layer)]:
        raise UnsupportedError(f"{path.name} is compiled from another version of whit; install whit again")
    library.whit_scratch_size.argtypes = (POINTER(_Model), c_int64)
    library.whit_scratch_size.restype = c_int64
    library.whit_encode.argtypes = (
        *(POINTER(_Model), c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p),
    )
    library.whit_encode.restype = None
    return library


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """uint8 [size] that begins at a cache line."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


class Model:
    """A program laid out in memory."""

    def __init__(self, library: ctypes.CDLL, program: Program, *, position_offset: int) -> None:
        self._library = library
        self._held: list[Any] = []  # what the C structures point to
        width = program.embedding_norm.gain.shape[0]
        if width % PANEL:
            raise UnsupportedError(f"a width of {width}, which is no multiple of {PANEL}")
        self._width, self._head_width = width, program.head_width
        self._head_panels = -(-program.head_width // PANEL)
        self._word_count = program.words.token_count
        self._position_count = program.positions.token_count - position_offset
        layers = (_Layer * len(program.blocks))(*(self._layer(block) for block in program.blocks))
        self._layers = layers
        self._model = _Model(
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

    def scratch_size(self, longest: int) -> int:
        """Bytes of working memory for texts of up to ``longest`` tokens."""
        return int(self._library.whit_scratch_size(self._model, longest))

    def encode(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        layer_count: int,
        scratch: NDArray[np.uint8],
        ticks: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors float32 [len(lengths), width] of texts whose tokens lie back to back in ``ids``.

        Args:
            ids: int64 [sum of lengths].
            lengths: int64 [texts].
            layer_count: how many layers to compute; 0: all.
            scratch: at least ``scratch_size(lengths.max())`` bytes, aligned to 64.
            ticks: int64 [len(PARTS)], to which the time that each part takes is added, in ticks of the processor's clock.

        Raises:
            ValueError: a token beyond the vocabulary, a text without a token or of more than there are positions.
        """
        # The C code looks nothing up twice: what it must not meet is refused here.
        if lengths.min() < 1 or lengths.max() > self._position_count:
            raise ValueError(
                f"texts must have 1 to {self._position_count} tokens, got {lengths.min()} to {lengths.max()}"
            )
        if ids.min() < 0 or ids.max() >= self._word_count:
            raise ValueError(f"token ids must be from 0 to {self._word_count - 1}, got {ids.min()} to {ids.max()}")
        codes, vectors = ids.astype(np.int32), np.empty((len(lengths), self._width), np.float32)
        self._library.whit_encode(
            *(self._model, codes.ctypes.data, lengths.ctypes.data, len(lengths), int(lengths.max())),
            *(
                layer_count or len(self._layers),
                scratch.ctypes.data,
                vectors.ctypes.data,
                None if ticks is None else ticks.ctypes.data,
            ),
        )
        return vectors

    def _hold(self, array: NDArray[Any]) -> int:
        """Address of a copy of the array that lives as long as the model, at the start of a cache line."""
        memory = aligned_memory(array.nbytes)
        memory.view(array.dtype).reshape(array.shape)[...] = array
        self._held.append(memory)
        return memory.ctypes.data

    def _rows(self, rows: Rows) -> _Rows:
        laid = _Rows(kind=_FLOATS, codes=self._hold(rows.codes))
        if rows.places is not None:
            laid.places = self._hold(rows.places)
        if rows.scales is not None:
            laid.kind, laid.scales, laid.scale_count = _BYTES, self._hold(rows.scales), 1
        if rows.scales is not None and rows.is_packed:
            laid.kind, laid.scale_count = _PAIRS, rows.scales.shape[1]
            laid.scale_of = self._hold((np.arange(rows.width) * laid.scale_count // rows.width).astype(np.int32))
        if rows.centroids is not None:
            laid.kind, laid.code_count, laid.centroids = _PRODUCTS, rows.codes.shape[1], self._hold(rows.centroids)
        return laid

    def _norm(self, norm: Norm) -> _Norm:
        return _Norm(self._hold(norm.gain), self._hold(norm.bias))

    def _layer(self, block: Block) -> _Layer:
        heads, inner = block.head_count, 0 if block.up is None else -(-block.up.codes.shape[1] // PANEL) * PANEL
        layer = _Layer(
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
            layer.out = _Linear(biases=self._hold(block.out))
        if block.up is not None:
            layer.up, layer.up_codes = self._linear(block.up), self._quantizer(block.up)
        if isinstance(block.down, Linear):
            layer.down, layer.down_codes = self._linear(block.down, inner), self._quantizer(block.down)
        else:
            layer.down = _Linear(biases=self._hold(block.down))
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

    def _linear(self, linear: Linear, input_count: int = 0) -> _Linear:
        """Packs weights; ``input_count`` pads the inputs, of which there are otherwise as many as a multiple of 4 holds."""
        inputs, outputs = linear.codes.shape
        deep, wide = input_count or -(-inputs // 4) * 4, -(-outputs // PANEL) * PANEL
        codes = np.zeros((deep, wide), np.int8)
        codes[:inputs, :outputs] = linear.codes
        panels = codes.reshape(deep // 4, 4, wide // PANEL, PANEL).transpose(2, 0, 3, 1)

        def padded(values: NDArray[Any]) -> NDArray[Any]:
            return np.pad(values, (0, wide - outputs))

        offsets = linear.zero_point * codes.sum(axis=0, dtype=np.int32)
        return _Linear(
            self._hold(panels),
            self._hold(padded(np.broadcast_to(linear.weight_scales, outputs) * np.float32(linear.scale))),
            self._hold(offsets.astype(np.int32)),
            self._hold(padded(linear.bias)),
            deep,
            wide // PANEL,
        )

    def _quantizer(self, linear: Linear) -> _Quantizer:
        inputs = linear.codes.shape[0]
        factors = np.ones(inputs, np.float32) if linear.smoothing is None else linear.smoothing
        return _Quantizer(self._hold(np.pad(factors / np.float32(linear.scale), (0, 2 * PANEL))), linear.zero_point)
