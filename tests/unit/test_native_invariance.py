"""A text's vector depends on nothing but the text, to the last bit; and what is no text is refused before the C code sees it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.native import (
    MAX_TOKEN_COUNT,
    WORD_COUNT,
    kernel_vectors,
    needs_kernels,
    open_model,
    random_program,
    random_texts,
    scratch_memory,
    static_package,
)
from whit.contract.vectors import Encoding, encode
from whit.runtime.native.encoder import NativeEncoder
from whit.runtime.native.library import Model
from whit.runtime.package import open_package

pytestmark = needs_kernels

# All lengths up to where every tile and panel has been in every state, and those about as long as a block.
LENGTHS = [*range(1, 71), 95, 96, 97, 126, 127, 128, 129, 140, 256, 300]
PROGRAMS = {
    "whole": ([(4, 64), (4, 64)], {}),
    "narrow heads, cut layers": ([(5, 33), (0, 64), (3, 0)], {"head_width": 3}),
    "wide heads": ([(2, 40)], {"head_width": 48, "words": "float32", "pooling": "cls"}),
}


@cache
def model(name: str = "whole") -> Model:
    shapes, options = PROGRAMS[name]
    return open_model(random_program(shapes, **options))  # type: ignore[arg-type]


@cache
def texts() -> list[NDArray[np.int64]]:
    return random_texts(LENGTHS)


@cache
def alone(name: str = "whole") -> NDArray[np.float32]:
    return np.concatenate([kernel_vectors(model(name), [text]) for text in texts()])


@pytest.mark.parametrize("name", PROGRAMS)
@given(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=60))
@settings(max_examples=25)
def test_company_and_order_change_no_bit(name: str, chosen: list[int]) -> None:
    together = kernel_vectors(model(name), [texts()[i] for i in chosen])

    assert together.tobytes() == alone(name)[chosen].tobytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_length_beside_every_other(name: str) -> None:
    count = len(LENGTHS)
    for shift in range(0, count, 6):
        order = [each for i in range(count) for each in (i, (i + shift) % count)]

        together = kernel_vectors(model(name), [texts()[i] for i in order])

        assert together.tobytes() == alone(name)[order].tobytes()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("before", ["zeros", "huge", "noise", "longer texts"])
def test_what_the_memory_held_before_changes_no_bit(name: str, before: str) -> None:
    scratch = scratch_memory(model(name).scratch_size(MAX_TOKEN_COUNT))
    match before:
        case "zeros":
            scratch[:] = 0
        case "huge":
            scratch[:].view(np.float32)[:] = 3e38
        case "noise":
            scratch[:] = np.random.default_rng(0).integers(0, 256, len(scratch))
        case "longer texts":
            kernel_vectors(model(name), random_texts([MAX_TOKEN_COUNT] * 3, seed=1), scratch=scratch)

    for i, text in enumerate(texts()):
        assert kernel_vectors(model(name), [text], scratch=scratch).tobytes() == alone(name)[i].tobytes()


def test_more_layers_before_change_no_bit() -> None:
    scratch = scratch_memory(model().scratch_size(MAX_TOKEN_COUNT))
    first = kernel_vectors(model(), texts(), 1, scratch)
    kernel_vectors(model(), texts(), 2, scratch)

    assert kernel_vectors(model(), texts(), 1, scratch).tobytes() == first.tobytes()
    assert not np.array_equal(first, alone())


@cache
def encoder() -> NativeEncoder:
    return NativeEncoder(open_package(static_package()))


@cache
def package_texts() -> list[NDArray[np.int64]]:
    return random_texts([*range(1, 65), 64, 64, 1, 1])


@cache
def package_vectors() -> NDArray[np.float32]:
    return np.concatenate([encoder().run([text]) for text in package_texts()])


@given(seed=st.integers(0, 2**32), token_budget=st.sampled_from([1, 16, 100, 512, 4096]))
@settings(max_examples=15)
def test_the_encoder_gives_the_same_bits_in_any_batch(seed: int, token_budget: int) -> None:
    order = np.random.default_rng(seed).permutation(len(package_texts()))

    together = encoder().encode([package_texts()[i] for i in order], token_budget=token_budget)

    assert together.tobytes() == package_vectors()[order].tobytes()


@pytest.mark.parametrize("encoding", Encoding)
def test_batches_change_no_byte_on_the_wire(encoding: Encoding) -> None:
    together = encode(encoder().encode(package_texts()), encoding)

    assert together == encode(package_vectors(), encoding)


def test_threads_side_by_side_change_no_bit() -> None:
    """All at once, each in an order of its own."""
    start = threading.Barrier(4)

    def work(seed: int) -> list[bytes]:
        start.wait(timeout=60)
        found = []
        for turn in range(5):
            order = np.random.default_rng(10 * seed + turn).permutation(len(package_texts()))
            vectors = encoder().encode([package_texts()[i] for i in order], token_budget=200)
            found.append(vectors[np.argsort(order)].tobytes())
        return found

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(work, range(4)):
            assert set(found) == {package_vectors().tobytes()}


def test_an_executor_changes_no_bit() -> None:
    with ThreadPoolExecutor(3) as threads:
        together = encoder().encode(package_texts(), token_budget=64, executor=threads)

    assert together.tobytes() == package_vectors().tobytes()


def test_another_encoder_of_the_same_package_gives_the_same_bits() -> None:
    again = NativeEncoder(open_package(static_package()))

    assert again.encode(package_texts()).tobytes() == package_vectors().tobytes()


def test_nothing_to_encode() -> None:
    assert encoder().encode([]).shape == (0, 32)


@pytest.mark.parametrize("token", [-1, -(2**31), -(2**63), 2**31, 2**32, 2**63 - 1, None])
def test_a_token_outside_the_vocabulary(token: int | None) -> None:
    """Also one that would be a good one if it were cut to 32 bits."""
    count = encoder().manifest.vocabulary_size
    ids = np.array([5, count if token is None else token, 5], np.int64)

    with pytest.raises(ValueError, match=rf"token ids must be from 0 to {count - 1}, got .*{ids[1]}"):
        encoder().run([np.array([5, 6]), ids])

    assert np.isfinite(encoder().run([np.array([0, count - 1])])).all()


@pytest.mark.parametrize("lengths", [[0], [3, 0], [0, 3], [65], [2, 65], [10_000]])
def test_a_text_of_no_tokens_or_too_many(lengths: list[int]) -> None:
    found = f"got {min(lengths)} to {max(lengths)}"

    with pytest.raises(ValueError, match=f"texts must have 1 to 64 tokens, {found}"):
        encoder().run(random_texts(lengths))


@pytest.mark.parametrize("core_count", [0, -1, 9])
def test_a_number_of_cores_that_the_kernels_have_no_memory_for(core_count: int) -> None:
    with pytest.raises(ValueError, match=f"core_count must be 1 to 8, got {core_count}"):
        encoder().run([np.array([5, 6])], core_count=core_count)


def test_a_text_of_too_many_tokens_takes_no_memory() -> None:
    """So that it is refused for what it is, and not for want of memory."""
    assert model().scratch_size(10**12) == model().scratch_size(MAX_TOKEN_COUNT)


@pytest.mark.parametrize("layer_count", [1, 2, 3, -1])
def test_a_depth_that_the_package_does_not_have(layer_count: int) -> None:
    with pytest.raises(ValueError, match=rf"layer_count must be 0 or one of \[\], got {layer_count}"):
        encoder().run(random_texts([3]), layer_count)


def test_a_depth_before_the_layer_that_pooling_reads() -> None:
    """What weighs the tokens would be whatever the memory held before."""
    program = replace(random_program(), pooling="ditto", weighing=(1, 3))

    with pytest.raises(ValueError, match="layer_count must be 0 or from 2 to 2, got 1"):
        kernel_vectors(open_model(program), random_texts([3]), 1)

    assert np.isfinite(kernel_vectors(open_model(program), random_texts([3]), 2)).all()


def test_tokens_that_share_rows_are_counted_as_tokens() -> None:
    shared = open_model(random_program(words="shared"))
    size = scratch_memory(shared.scratch_size(1))

    for token in (WORD_COUNT, -1):
        with pytest.raises(ValueError, match=f"token ids must be from 0 to {WORD_COUNT - 1}"):
            shared.encode(np.array([token]), np.array([1]), 0, size)


def test_a_refusal_leaves_the_encoder_as_it_was() -> None:
    for bad in ([-1], [10**6], []):
        with pytest.raises(ValueError, match="must"):
            encoder().run([np.array([5]), np.array(bad, np.int64)])

    assert encoder().run(package_texts()[:3]).tobytes() == package_vectors()[:3].tobytes()


def test_short_texts_wait_as_one_length_so_that_a_call_of_them_is_not_begun_in_parts():
    lengths = [encoder().attention_length(count) for count in (1, 14, 64, 65, 256)]
    assert lengths == [64, 64, 64, 128, 256]
