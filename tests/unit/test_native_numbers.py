"""The kernels compute the model: a reference in numpy and float64 agrees to float accuracy, for every shape and length.

A float that lies next to a rounding boundary may get another code there than here, which moves a text's vector by some 0.0001,
seldom by more than 0.001: few texts may be off by that much, and most must agree to the last places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.native import (
    BLOCK_TOKENS,
    kernel_vectors,
    needs_kernels,
    open_model,
    random_program,
    random_texts,
    reference_vectors,
    static_package,
)
from whit.contract.manifest import GRAPH_FILE
from whit.runtime.native.encoder import NativeEncoder
from whit.runtime.native.library import PARTS
from whit.runtime.native.onnx_file import read_graph
from whit.runtime.native.parts import Linear, Program
from whit.runtime.native.program import read_program
from whit.runtime.opening import open_encoder
from whit.runtime.package import open_package
from whit.runtime.verify import TOLERANCE

pytestmark = needs_kernels

LENGTHS = range(1, 71)
FLOAT_ACCURACY = 5e-7
ONE_CODE = 4e-3

SHAPES: dict[str, tuple[Sequence[tuple[int, int]], dict[str, Any]]] = {
    # heads and FFN columns of each layer
    "two layers": ([(4, 64), (4, 64)], {}),
    "heads of 4": ([(8, 64)], {"head_width": 4}),
    "heads of 16": ([(2, 64)], {"head_width": 16}),
    "heads of 32": ([(1, 64)], {"head_width": 32}),
    "heads of 64": ([(2, 64)], {"head_width": 64}),
    "heads of 48, two panels with room": ([(3, 64)], {"head_width": 48}),
    "heads of 96, three panels": ([(1, 64)], {"head_width": 96}),
    "heads of 17, a lane into the second register": ([(4, 64)], {"head_width": 17}),
    "15 values in all heads": ([(5, 64)], {"head_width": 3}),
    "one value in all heads": ([(1, 64)], {"head_width": 1}),
    "another number of heads in each layer": ([(4, 64), (1, 64), (7, 64)], {}),
    "one column": ([(4, 1)], {}),
    "31 columns": ([(4, 31)], {}),
    "33 columns": ([(4, 33)], {}),
    "another number of columns in each layer": ([(4, 100), (4, 7), (4, 64)], {}),
    "no heads at the start": ([(0, 64), (4, 64)], {}),
    "no heads at the end": ([(4, 64), (0, 64)], {}),
    "no columns at the start": ([(4, 0), (4, 64)], {}),
    "no columns at the end": ([(4, 64), (4, 0)], {}),
    "nothing left of a layer": ([(4, 64), (0, 0), (3, 33)], {}),
    "wide": ([(6, 200)], {"width": 96, "head_width": 16}),
    "relu": ([(4, 64)], {"activation": "relu"}),
    "exact gelu": ([(4, 64)], {"activation": "gelu"}),
    "first token": ([(4, 64)], {"pooling": "cls"}),
    "any length": ([(4, 64)], {"normalize": False}),
    "first token of any length": ([(4, 64)], {"pooling": "cls", "normalize": False}),
    "no smoothing": ([(4, 64)], {"smoothed": False}),
    "float embeddings": ([(4, 64)], {"words": "float32"}),
    "embeddings that tokens share": ([(4, 64)], {"words": "shared"}),
}


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float64], most: float = 0.8) -> None:
    """``most`` of the rows agree to float accuracy, the others but for a code."""
    size = np.abs(wanted).max()
    differences = np.abs(found - wanted).max(axis=1) / max(1.0, size)
    assert np.quantile(differences, most) < FLOAT_ACCURACY, differences
    assert differences.max() < ONE_CODE, differences


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_at_every_length(name: str) -> None:
    shapes, options = SHAPES[name]
    program, texts = random_program(shapes, **options), random_texts(LENGTHS)

    found, wanted = kernel_vectors(open_model(program), texts), reference_vectors(program, texts)

    assert_close(found, wanted)
    # Texts do differ by more than what is allowed, so that mixing them up would show.
    assert np.abs(np.diff(wanted, axis=0)).max(axis=1).min() > 2 * ONE_CODE


@pytest.mark.parametrize("length", [*range(BLOCK_TOKENS - 2, BLOCK_TOKENS + 3), 2 * BLOCK_TOKENS, 300])
def test_texts_about_as_long_as_a_block(length: int) -> None:
    program = random_program([(2, 64)], head_width=16)
    texts = random_texts([length, 1, length, 12, 13, 116])

    assert_close(kernel_vectors(open_model(program), texts), reference_vectors(program, texts), most=0.3)


@pytest.mark.parametrize(
    "lengths",
    [
        [64, 64, 64, 64],
        [64, 64, 1],
        [64, 65],
        [1] * (BLOCK_TOKENS + 1),
        [12] * 11,
        [127, 1, 1],
        [1, 127, 2],
        [300, 1, 300],
        [16, 32, 48, 17, 31, 33],
    ],
    ids=lambda lengths: f"{len(lengths)} texts, {sum(lengths)} tokens",
)
def test_texts_that_fill_a_block_just_so(lengths: list[int]) -> None:
    program, texts = random_program(), random_texts(lengths, seed=3)

    assert_close(kernel_vectors(open_model(program), texts), reference_vectors(program, texts), most=0.3)


@pytest.mark.parametrize("layer_count", [1, 2, 3])
def test_fewer_layers(layer_count: int) -> None:
    program = random_program([(4, 64), (0, 40), (2, 0)])
    texts = random_texts(LENGTHS)

    found = kernel_vectors(open_model(program), texts, layer_count)

    assert_close(found, reference_vectors(program, texts, layer_count))


@pytest.mark.parametrize("part", ["qkv", "out", "up", "down"])
def test_values_beyond_the_codes_get_the_outermost(part: str) -> None:
    """Some by so much that they are beyond int32 as well: a neuron that calibration never saw firing."""
    program = random_program([(4, 64)])
    block = program.blocks[0]
    linear: Linear = getattr(block, part)
    tiny = replace(linear, scale=1e-12, weight_scales=linear.weight_scales * np.float32(1e10))
    program = replace(program, blocks=[replace(block, **{part: tiny})])
    texts = random_texts(LENGTHS)

    # With all inputs at one end or the other, many a key is half-way between the least and the largest, and that is no code.
    most = 0.25 if part == "qkv" else 0.8
    assert_close(kernel_vectors(open_model(program), texts), reference_vectors(program, texts), most)


def test_scores_far_apart() -> None:
    """Attention that is all on one token: most exponentials are as good as 0."""
    program = random_program([(4, 64)])
    block = program.blocks[0]
    assert block.qkv is not None
    scales = np.where(np.arange(96) < 64, np.float32(300), np.float32(1))
    sharp = replace(block.qkv, weight_scales=block.qkv.weight_scales * scales)
    program, texts = replace(program, blocks=[replace(block, qkv=sharp)]), random_texts(LENGTHS)

    assert_close(kernel_vectors(open_model(program), texts), reference_vectors(program, texts), most=0.6)


@pytest.mark.parametrize(
    ("family", "checkpoint"),
    [("bert", {}), ("bert", {"num_attention_heads": 16, "intermediate_size": 40}), ("roberta", {"pooling": "cls"})],
    ids=str,
)
def test_a_package_is_read_and_computed(family: str, checkpoint: dict[str, Any]) -> None:
    package = open_package(static_package(family, **checkpoint))
    program: Program = read_program(read_graph(package.directory / GRAPH_FILE))
    texts = random_texts(range(1, 65))
    encoder = NativeEncoder(package)

    found = encoder.encode(texts)
    other = open_encoder(package, "onnxruntime").encode(texts)

    assert_close(found, reference_vectors(program, texts, position_offset=package.manifest.position_offset))
    assert np.abs(found - other).max() < TOLERANCE["int8"]


def test_a_profile_is_of_all_parts() -> None:
    encoder = NativeEncoder(open_package(static_package()))

    shares = encoder.profile(random_texts([5, 60]))

    assert list(shares) == list(PARTS)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
