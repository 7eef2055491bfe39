"""Proves that the arrays of a program fit together: the C code believes what it is told about their sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from whit.runtime.native.parts import AnyLinear, Block, FloatLinear, Linear, Norm, Program, Rows, UnsupportedError

_CENTROID_COUNT = 256


def check_program(program: Program) -> None:
    """Refuses a program that reads beyond the end of one of its arrays.

    Raises:
        UnsupportedError: names the first array that does not fit.
    """
    if program.head_width < 1 or not program.blocks:
        raise UnsupportedError(f"{len(program.blocks)} layers with heads of {program.head_width}")
    embedding_width, width = program.embedding_norm.gain.size, program.blocks[0].output_norm.gain.size
    _check_rows("words", program.words, embedding_width)
    _check_rows("positions", program.positions, embedding_width)
    _check_norm("embedding_norm", program.embedding_norm, embedding_width)
    if program.projection is not None:
        _check_linear("projection", program.projection, embedding_width, width)
    elif embedding_width != width:
        raise UnsupportedError(f"embeddings of a width of {embedding_width}, layers of a width of {width}")
    for i, block in enumerate(program.blocks):
        _check_block(f"layers.{i}", block, width, program.head_width)
    if program.relative_bias is not None:
        heads = max(block.head_count for block in program.blocks)
        _check("relative_bias", program.relative_bias, np.float32, len(program.relative_bias) // 2 * 2 + 1, heads)
    if program.weighing is not None:
        layer, head = program.weighing
        if not (0 <= layer < len(program.blocks) and 0 <= head < program.blocks[layer].head_count):
            raise UnsupportedError(f"weighing by head {head} of layer {layer}, which is not there")
    for i, dense in enumerate(program.dense):
        _check_linear(f"dense.{i}", dense.linear, width, dense.linear.bias.size)
        width = dense.linear.bias.size


def _check_rows(name: str, rows: Rows, width: int) -> None:
    count = len(rows.codes) if rows.codes.ndim else 0
    match rows:
        case Rows(scales=None):
            _check(f"{name}.codes", rows.codes, np.float32, count, width)
        case Rows(centroids=centroids) if centroids is not None:
            stretches = rows.codes.shape[-1]
            _check(f"{name}.codes", rows.codes, np.uint8, count, stretches)
            _check(f"{name}.centroids", centroids, np.int8, stretches, _CENTROID_COUNT, width // max(stretches, 1))
            _check(f"{name}.scales", rows.scales, np.float32, count)
        case Rows(is_packed=True, scales=scales) if scales is not None:
            _check(f"{name}.codes", rows.codes, np.int8, count, width // 2)
            _check(f"{name}.scales", scales, np.float32, count, scales.shape[1])
        case _:
            _check(f"{name}.codes", rows.codes, np.int8, count, width)
            _check(f"{name}.scales", rows.scales, np.float32, count)
    if rows.width != width:  # halves of a row or stretches of it need not make a whole one
        raise UnsupportedError(f"{name} with rows of a width of {rows.width}, not {width}")
    if rows.places is not None:
        _check(f"{name}.places", rows.places, np.int32, rows.places.size)
        if rows.places.size and not 0 <= rows.places.min() <= rows.places.max() < count:
            raise UnsupportedError(f"{name}.places of rows beyond the {count} that there are")


def _check_norm(name: str, norm: Norm, width: int) -> None:
    _check(f"{name}.gain", norm.gain, np.float32, width)
    _check(f"{name}.bias", norm.bias, np.float32, width)


def _check_block(name: str, block: Block, width: int, head_width: int) -> None:
    _check_pair(name, ("qkv", "out"), (block.qkv, block.out), (width, 3, block.head_count * head_width))
    inner = 0 if block.up is None else block.up.bias.size
    _check_pair(name, ("up", "down"), (block.up, block.down), (width, 1, inner))
    _check_norm(f"{name}.attention_norm", block.attention_norm, width)
    _check_norm(f"{name}.output_norm", block.output_norm, width)
    if not block.ceiling > 0:  # or NaN, which is neither finite, as in layout.py, nor infinite, as in encoder.c
        raise UnsupportedError(f"{name} with activations that end at {block.ceiling}")


def _check_pair(
    name: str,
    names: tuple[str, str],
    pair: tuple[AnyLinear | None, AnyLinear | NDArray[np.float32]],
    sizes: tuple[int, int, int],
) -> None:
    """Two linear layers, from ``width`` to ``times`` * ``inner`` values and from ``inner`` back; or what is left of them."""
    (first, second), (width, times, inner) = pair, sizes
    if first is None and isinstance(second, np.ndarray) and inner == 0:
        _check(f"{name}.{names[1]}.bias", second, np.float32, width)
    elif first is not None and not isinstance(second, np.ndarray) and inner > 0:
        _check_linear(f"{name}.{names[0]}", first, width, times * inner)
        _check_linear(f"{name}.{names[1]}", second, inner, width)
    else:
        raise UnsupportedError(f"{name}.{names[0]} and {name}.{names[1]}, one of which is there without the other")


def _check_linear(name: str, linear: AnyLinear, inputs: int, outputs: int) -> None:
    _check(f"{name}.bias", linear.bias, np.float32, outputs)
    if isinstance(linear, FloatLinear):
        _check(f"{name}.weight", linear.weight, np.float32, inputs, outputs)
        return
    _check(f"{name}.codes", linear.codes, np.int8, inputs, outputs)
    _check(f"{name}.weight_scales", linear.weight_scales, np.float32, outputs)
    if not isinstance(linear, Linear):
        return
    if linear.smoothing is not None:
        _check(f"{name}.smoothing", linear.smoothing, np.float32, inputs)
    if not (math.isfinite(linear.scale) and linear.scale > 0 and 0 <= linear.zero_point <= 255):
        raise UnsupportedError(f"{name} with scale {linear.scale} and zero point {linear.zero_point}")


def _check(name: str, array: NDArray[Any] | None, dtype: DTypeLike, *shape: int) -> None:
    if array is None or array.dtype != dtype or array.shape != shape or 0 in shape:
        found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise UnsupportedError(f"{name}: {found} where {np.dtype(dtype)} {list(shape)} was expected")
