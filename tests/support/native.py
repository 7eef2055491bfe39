"""For the tests of whit's own kernels: random programs of any shape, what they must compute, and packages that the kernels run.

``reference_vectors`` is the model written down in numpy, float64, one text at a time: nothing of it is shared with the C code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import tiny
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.runtime.machine import instruction_sets
from whit.runtime.native.curves import FROM, PIECES, STEPS, curve
from whit.runtime.native.library import KERNELS, Kernels, Model, load_library
from whit.runtime.native.parts import Block, Linear, Norm, Program, Rows

FloatArray = NDArray[np.floating[Any]]
Texts = Sequence[NDArray[np.int64]]

POSITION_OFFSET = 2
WORD_COUNT = 90
MAX_TOKEN_COUNT = 300
TINY = 1e-30  # the least range that codes are made for
BLOCK_TOKENS = 128  # BLOCK of encoder.c

# Those that this machine can run, the fastest first.
RUNNABLE = [kernels for kernels in KERNELS if kernels.needs <= instruction_sets() and kernels.path.is_file()]

needs_kernels = pytest.mark.skipif(
    not RUNNABLE, reason="needs a CPU with AVX2 or Arm's dot product and the compiled kernels: pip install -e ."
)

_ROOT = TemporaryDirectory(prefix="whit-native-")


@cache
def static_package(family: str = "bert", **checkpoint: Any) -> Path:
    """Directory of a tiny int8 package whose layers all have calibrated scales; read only."""
    folder = Path(_ROOT.name, f"{len(list(Path(_ROOT.name).iterdir()))}")
    source = tiny.write_checkpoint(folder / f"tiny-{family}", family, **checkpoint)
    options = ExportOptions(name="tiny", max_layer_error=0.9, max_loss=100.0)
    compile_checkpoint(source, folder / "package", options)
    return folder / "package"


def random_program(
    shapes: Sequence[tuple[int, int]] = ((4, 64), (4, 64)),
    *,
    head_width: int = 8,
    width: int = 32,
    activation: str = "gelu_tanh",
    pooling: str = "mean",
    normalize: bool = True,
    words: str = "int8",
    smoothed: bool = True,
    seed: int = 0,
) -> Program:
    """A program with random weights; nothing in it is zero or one, so that a part left out shows.

    Args:
        shapes: heads and FFN columns of each layer; 0 is a block that pruning left nothing of.
        head_width: of every head; heads * head_width need not be ``width``.
        width: of the residual stream.
        activation: one of ``FUNCTIONS``.
        pooling: ``mean`` or ``cls``.
        normalize: whether vectors have unit length.
        words: how word embeddings are stored: ``float32``, ``int8``, or ``shared`` (int8 rows that several tokens have).
        smoothed: whether every other linear layer has smoothing factors.
        seed: of the weights.
    """
    draw = _Draw(np.random.default_rng(seed))
    places = None
    if words == "shared":
        places = draw.random.integers(0, WORD_COUNT // 2, WORD_COUNT).astype(np.int32)
    return Program(
        words=draw.rows(WORD_COUNT if places is None else WORD_COUNT // 2, width, words != "float32", places),
        positions=draw.rows(MAX_TOKEN_COUNT + POSITION_OFFSET, width, words != "float32", None),
        embedding_norm=draw.norm(width),
        epsilon=1e-5,
        blocks=[draw.block(width, heads, head_width, inner, smoothed) for heads, inner in shapes],
        head_width=head_width,
        activation=activation,
        pooling=pooling,
        normalize=normalize,
    )


class _Draw:
    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def rows(self, count: int, width: int, coded: bool, places: NDArray[np.int32] | None) -> Rows:
        if not coded:
            return Rows(self.floats(0.5, count, width), places=places)
        return Rows(self.codes(count, width), np.abs(self.floats(0.004, count)) + np.float32(0.001), places)

    def norm(self, width: int) -> Norm:
        return Norm(1 + self.floats(0.2, width), self.floats(0.2, width))

    def block(self, width: int, heads: int, head_width: int, inner: int, smoothed: bool) -> Block:
        size = heads * head_width
        return Block(
            qkv=self.linear(width, 3 * size, smoothed=smoothed) if heads else None,
            out=self.linear(size, width) if heads else self.floats(0.2, width),
            up=self.linear(width, inner) if inner else None,
            # What GELU gives is seldom below zero: its codes are.
            down=self.linear(inner, width, scale=3 / 255, zero=14, smoothed=smoothed)
            if inner
            else self.floats(0.2, width),
            attention_norm=self.norm(width),
            output_norm=self.norm(width),
            head_count=heads,
        )

    def linear(
        self, inputs: int, outputs: int, *, scale: float = 5 / 255, zero: int = 120, smoothed: bool = False
    ) -> Linear:
        scales = np.abs(self.floats(0.004, outputs)) + np.float32(0.01)
        return Linear(
            codes=self.weights(inputs, outputs),
            weight_scales=scales / np.float32(math.sqrt(inputs)),
            bias=self.floats(0.2, outputs),
            scale=float(np.float32(scale)),
            zero_point=zero,
            smoothing=np.exp(self.floats(0.2, inputs)) if smoothed else None,
        )

    def codes(self, *shape: int) -> NDArray[np.int8]:
        return self.random.integers(-127, 128, shape).astype(np.int8)

    def weights(self, *shape: int) -> NDArray[np.int8]:
        """As ``whit export`` rounds them: no two beside each other add up to more than 128."""
        codes = self.codes(*shape)
        first, second = codes[: shape[0] // 2 * 2 : 2], codes[1::2]
        second[np.abs(first.astype(int) + second) > 128] *= -1
        return codes

    def floats(self, deviation: float, *shape: int) -> NDArray[np.float32]:
        return self.random.normal(0, deviation, shape).astype(np.float32)


def random_texts(lengths: Sequence[int], seed: int = 0) -> list[NDArray[np.int64]]:
    """Token ids of texts with so many tokens each."""
    random = np.random.default_rng(seed)
    return [random.integers(0, WORD_COUNT, length) for length in lengths]


def open_model(program: Program, kernels: Kernels | None = None, position_offset: int = POSITION_OFFSET) -> Model:
    """The program in the fastest kernels, or in these."""
    return Model(load_library((kernels or RUNNABLE[0]).path), program, position_offset=position_offset)


def scratch_memory(size: int) -> NDArray[np.uint8]:
    """uint8 [size] that begins at a cache line, with whatever is in it."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def kernel_vectors(
    model: Model, texts: Texts, layer_count: int = 0, scratch: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """What the kernels give, float32 [len(texts), width]; ``scratch`` None: memory full of NaNs, with a watched margin.

    That is computed by one thread, and by two and by three together, to the same bits.
    """
    lengths = [len(text) for text in texts]
    if scratch is not None:
        return model.encode(np.concatenate(texts), lengths, layer_count, scratch)
    found = []
    for core_count in (1, 2, 3):
        size, margin = model.scratch_size(max(lengths), core_count), 4096
        scratch = scratch_memory(size + margin)
        scratch[:] = 0xFF
        found.append(model.encode(np.concatenate(texts), lengths, layer_count, scratch, core_count=core_count))
        assert (scratch[size:] == 0xFF).all(), "written beyond the scratch memory"
    assert found[1].tobytes() == found[2].tobytes() == found[0].tobytes(), "the number of threads changes vectors"
    return found[0]


def reference_vectors(
    program: Program, texts: Texts, layer_count: int = 0, position_offset: int = POSITION_OFFSET
) -> NDArray[np.float64]:
    """What the kernels must give, float64 [len(texts), width]."""
    depth = layer_count or len(program.blocks)
    return np.stack([_vector(program, ids, depth, position_offset) for ids in texts])


def _vector(program: Program, ids: NDArray[np.int64], layer_count: int, position_offset: int) -> NDArray[np.float64]:
    x = _rows(program.words, ids) + _rows(program.positions, np.arange(len(ids)) + position_offset)
    x = _norm(x, program.embedding_norm, program.epsilon)
    for block in program.blocks[:layer_count]:
        x = _norm(x + _attention(x, block, program.head_width), block.attention_norm, program.epsilon)
        x = _norm(x + _feed_forward(x, block, program.activation), block.output_norm, program.epsilon)
    vector = x.mean(axis=0) if program.pooling == "mean" else x[0]
    return vector / np.linalg.norm(vector) if program.normalize else vector


def _rows(rows: Rows, ids: NDArray[np.int64]) -> FloatArray:
    stored = ids if rows.places is None else rows.places[ids]
    scales = 1.0 if rows.scales is None else rows.scales[stored, None].astype(np.float64)
    return np.asarray(rows.codes[stored] * scales, np.float64)


def _norm(x: FloatArray, norm: Norm, epsilon: float) -> FloatArray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon) * norm.gain + norm.bias


def _linear(x: FloatArray, linear: Linear) -> FloatArray:
    factors = 1.0 if linear.smoothing is None else linear.smoothing.astype(np.float64)
    codes = np.clip(np.rint(x * (factors / linear.scale)) + linear.zero_point, 0, 255).astype(np.int64)
    sums = (codes - linear.zero_point) @ linear.codes.astype(np.int64)
    return sums * (linear.scale * linear.weight_scales.astype(np.float64)) + linear.bias


def _attention(x: FloatArray, block: Block, width: int) -> FloatArray:
    if block.qkv is None or not isinstance(block.out, Linear):
        return np.asarray(block.out, np.float64)
    query, key, value = _linear(x, block.qkv).reshape(len(x), 3, block.head_count, width).transpose(1, 2, 0, 3)
    context = np.stack([_eight_bits(*head) for head in zip(query / math.sqrt(width), key, value, strict=True)], axis=1)
    return _linear(context.reshape(len(x), -1), block.out)


def _eight_bits(query: FloatArray, key: FloatArray, value: FloatArray) -> FloatArray:
    """Attention of one head, [tokens, width] each, as codes: keys by their columns' range, shares by the largest of each query.

    Shares are divided by what they summed to before they became codes; values count from their columns' mean.
    """
    low, step = key.min(axis=0), np.maximum(np.ptp(key, axis=0), TINY) / 255
    keys, queries = np.rint((key - low) / step), query * step
    query_step = np.maximum(np.abs(queries).max(axis=1, keepdims=True), TINY) / 127
    # [tokens, tokens]; what a query adds to all of its scores is left out.
    scores = (np.rint(queries / query_step) @ keys.T) * query_step
    shares = 255 * powers((scores - scores.max(axis=1, keepdims=True)) / math.log(2))
    mean = value.mean(axis=0)
    value_step = np.maximum(np.abs(value - mean).max(axis=0), TINY) / 127
    sums = np.rint(shares) @ np.rint((value - mean) / value_step) * value_step
    return np.asarray(sums / shares.sum(axis=1, keepdims=True) + mean)


def _feed_forward(x: FloatArray, block: Block, activation: str) -> FloatArray:
    if block.up is None or not isinstance(block.down, Linear):
        return np.asarray(block.down, np.float64)
    return _linear(parabolas(activation, _linear(x, block.up)), block.down)


def powers(x: FloatArray) -> FloatArray:
    """Powers of two as the kernels have them, float64."""
    whole = np.floor(x)
    return np.asarray(np.exp2(whole) * np.polyval([0.0780245513, 0.226067185, 0.695833504, 0.999925256], x - whole))


def parabolas(activation: str, x: FloatArray) -> FloatArray:
    """An activation as the kernels have it, float64."""
    pieces = curve(activation).astype(np.float64)
    piece = np.clip(np.floor((x - FROM) * STEPS), 0, PIECES - 1).astype(int)
    return np.asarray(pieces[0, piece] + x * (pieces[1, piece] + x * pieces[2, piece]))
