"""The same vectors on every processor: the kernels of all instruction sets agree to the last bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from tests.support.native import (
    RUNNABLE,
    kernel_vectors,
    needs_kernels,
    open_model,
    random_program,
    random_texts,
    reference_vectors,
)
from whit.runtime.native import UnsupportedError
from whit.runtime.native.library import load_library
from whit.runtime.native.parts import Linear, Program

pytestmark = needs_kernels

LENGTHS = [*range(1, 40), 63, 64, 65, 127, 128, 129, 200, 300]
PROGRAMS = {
    "whole": random_program(),
    "narrow heads, cut layers": random_program([(5, 33), (0, 64), (3, 0)], head_width=3),
    "wide heads, float embeddings": random_program([(2, 40)], head_width=48, words="float32", pooling="cls"),
    "relu": random_program([(4, 64)], activation="relu", normalize=False),
}
# Of the vectors, as one machine with AVX2 made them; an emulated Arm one and AVX-512 in plain C agreed.
DIGEST = "77666b9066a42c72b70ea8ace03771a070d334c752fff8754d3e895a373df5c0"


def test_all_kernels_of_this_machine_give_the_bits_of_any_other() -> None:
    for kernels in RUNNABLE:
        digest = hashlib.sha256()
        for program in PROGRAMS.values():
            digest.update(kernel_vectors(open_model(program, kernels), random_texts(LENGTHS)).tobytes())

        assert digest.hexdigest() == DIGEST, kernels.name


def with_weights(program: Program, first: int, second: int) -> Program:
    """Two weights of the last block's ``up``, for inputs 0 and 1 of one output."""
    block = program.blocks[-1]
    assert block.up is not None
    codes = block.up.codes.copy()
    codes[:2, 5] = first, second
    return replace(program, blocks=[*program.blocks[:-1], replace(block, up=replace(block.up, codes=codes))])


@pytest.mark.parametrize(("first", "second"), [(127, 2), (-127, -2), (65, 64)])
def test_weights_that_would_saturate_are_refused_where_they_would(first: int, second: int) -> None:
    program, texts = with_weights(PROGRAMS["whole"], first, second), random_texts([5])
    for kernels in RUNNABLE:
        if load_library(kernels.path).is_saturating:
            with pytest.raises(UnsupportedError, match="weights that add up to more than 16 bits in pairs"):
                open_model(program, kernels)
        else:
            assert np.isfinite(kernel_vectors(open_model(program, kernels), texts)).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [(127, 1), (-127, -1), (64, 64), (-64, -64), (127, -127), (32, 32), (-32, -32), (64, 0), (64, -64)],
)
def test_the_largest_weights_that_cannot_saturate_meet_the_largest_codes(first: int, second: int) -> None:
    """Alone, and with half of what a pair may have, in couples."""
    program, texts = with_weights(PROGRAMS["whole"], first, second), random_texts([1, 5, 17])
    block = program.blocks[-1]
    assert isinstance(block.up, Linear)
    codes = np.tile(block.up.codes[:2], (len(block.up.codes) // 2, 1))  # the two weights all the way down
    scales = block.up.weight_scales / np.float32(100)
    up = replace(block.up, codes=codes, weight_scales=scales, scale=1e-4, zero_point=0)  # all codes are 0 or 255
    program = replace(program, blocks=[*program.blocks[:-1], replace(block, up=up)])
    for kernels in RUNNABLE:
        found, wanted = kernel_vectors(open_model(program, kernels), texts), reference_vectors(program, texts)

        errors = np.abs(found - wanted).max(axis=1)
        assert errors.min() < 1e-6  # but for a code that is rounded the other way
        assert errors.max() < 1e-2
