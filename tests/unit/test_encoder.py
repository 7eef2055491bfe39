"""The encoder of real packages, float32 and int8: one text has one vector, to the last bit, whoever shares its batch."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import packages, tiny
from whit.contract.vectors import Encoding, encode
from whit.runtime.encoder import Encoder, session_options
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import verify

FloatArray = NDArray[np.float32]

# float32, and int8 of two families with different attention (MPNet adds a position bias), of many narrow heads, and of a
# model that reads enough tokens to have an unmasked length.
MODELS = {
    "bert": ("bert", {}),
    "mpnet": ("mpnet", {}),
    "heads": ("mpnet", {"num_attention_heads": 16}),
    "long": ("bert", {"max_position_embeddings": 128, "max_token_count": 128}),
}
BUILDS = [(model, dtype) for model in MODELS for dtype in ("float32", "int8")]

# Int8 against float on random weights, the worst case for rounding: no direction of theirs is more used than another.
MIN_COSINE = 0.98


@cache
def build(model: str, dtype: str) -> tuple[Package, Encoder]:
    name, changes = MODELS[model]
    package = open_package(packages.package(name, dtype, **changes))
    return package, Encoder(package)


@cache
def sequences(model: str) -> list[NDArray[np.int64]]:
    """Token ids of 120 mixed texts: 1 token to the limit, some of one length, some the same."""
    package, _ = build(model, "float32")
    draw = random.Random(0)
    words = [word for word in tiny.vocabulary() if len(word) > 4 and word.isalpha()]
    counts = [1, 2, 3, 8, 14, 30, 60, *([122, 200] if model == "long" else [])]
    texts = [" ".join(draw.choices(words, k=draw.choice(counts))) for _ in range(110)]
    texts += ["", "a", "a", *(" ".join(words[:1] * n) for n in (13, 14, 15, 29, 30, 31, 62))]
    tokenizer = Tokenizer(package)
    return [tokenizer.cut(ids, package.manifest.max_token_count) for ids in tokenizer.encode(texts)]


@cache
def alone(model: str, dtype: str) -> FloatArray:
    _, encoder = build(model, dtype)
    return np.concatenate([encoder.run([ids]) for ids in sequences(model)])


@pytest.mark.parametrize(("model", "dtype"), BUILDS)
@given(seed=st.integers(0, 2**32), token_budget=st.sampled_from([1, 16, 64, 512, 4096]))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_batches_change_no_bit(model: str, dtype: str, seed: int, token_budget: int) -> None:
    _, encoder = build(model, dtype)
    order = np.random.default_rng(seed).permutation(len(sequences(model)))

    together = encoder.encode([sequences(model)[i] for i in order], token_budget=token_budget)

    assert together.tobytes() == alone(model, dtype)[order].tobytes()


@pytest.mark.parametrize(("model", "dtype"), BUILDS)
@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.BINARY])
def test_batches_change_no_byte_on_the_wire(model: str, dtype: str, encoding: Encoding) -> None:
    _, encoder = build(model, dtype)

    assert encode(encoder.encode(sequences(model)), encoding) == encode(alone(model, dtype), encoding)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_threads_side_by_side_change_no_bit(dtype: str) -> None:
    _, encoder = build("bert", dtype)

    with ThreadPoolExecutor(4) as threads:
        found = encoder.encode(sequences("bert"), token_budget=64, executor=threads)

    assert found.tobytes() == alone("bert", dtype).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_company_of_extremes_changes_no_bit(dtype: str) -> None:
    """Mates whose activations are the largest of all: where a scale came from the batch, they would move it."""
    package, encoder = build("bert", dtype)
    text = sequences("bert")[0]
    vocabulary = package.manifest.vocabulary_size
    mates = [np.full(len(text), token, np.int64) for token in range(0, vocabulary, 7)]

    found = encoder.run([text, *mates])[0]

    assert found.tobytes() == alone("bert", dtype)[0].tobytes()


def test_a_second_session_gives_the_same_bits() -> None:
    package, _ = build("bert", "int8")

    found = Encoder(package).encode(sequences("bert"))

    assert found.tobytes() == alone("bert", "int8").tobytes()


@pytest.mark.parametrize("model", MODELS)
def test_int8_stays_close_to_float(model: str) -> None:
    cosines = (alone(model, "int8") * alone(model, "float32")).sum(axis=1)

    assert cosines.min() >= MIN_COSINE, cosines.min()
    assert not np.array_equal(alone(model, "int8"), alone(model, "float32"))


@pytest.mark.parametrize(("model", "dtype"), BUILDS)
def test_vectors_have_length_1_and_tell_texts_apart(model: str, dtype: str) -> None:
    vectors = alone(model, dtype)
    distinct = {ids.tobytes() for ids in sequences(model)}

    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert len({vector.tobytes() for vector in vectors}) == len(distinct) > 100


def test_nothing_to_encode() -> None:
    _, encoder = build("bert", "float32")

    assert encoder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_texts_that_fill_the_limit_run_apart_without_a_mask(dtype: str) -> None:
    package, encoder = build("long", dtype)
    assert package.manifest.unmasked_length == 128
    assert [encoder.attention_length(count) for count in (112, 113, 127, 128)] == [112, 144, 144, 128]
    assert {encoder.attention_length(len(ids)) for ids in sequences("long")} >= {128, 144}
    ids = np.random.default_rng(0).integers(5, package.manifest.vocabulary_size, 128)

    # One token less changes a vector little, so the two paths of attention agree.
    full, masked = encoder.run([ids])[0], encoder.run([np.delete(ids, 64)])[0]

    assert 0.9 < float(full @ masked) < 0.99999


@pytest.mark.parametrize(("model", "dtype"), BUILDS)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 12))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_longer_mates_change_no_bit(model: str, dtype: str, seed: int, count: int) -> None:
    package, encoder = build(model, dtype)
    masked = [
        i
        for i, ids in enumerate(sequences(model))
        if encoder.attention_length(len(ids)) != package.manifest.unmasked_length
    ]
    chosen = np.random.default_rng(seed).choice(masked, count)

    together = encoder.run([sequences(model)[i] for i in chosen])

    assert together.tobytes() == alone(model, dtype)[chosen].tobytes()
    assert verify(package, Tokenizer(package), encoder).mixes_lengths


def test_texts_without_a_mask_are_not_run_beside_others() -> None:
    _, encoder = build("long", "float32")

    with pytest.raises(ValueError, match=r"sequences of 128 tokens.*attention lengths \[16, 128\]"):
        encoder.run([np.array([2, 3]), np.full(128, 5)])


@pytest.mark.parametrize("token_count", [1, 2, 15, 16, 17, 63, 64])
def test_every_length_up_to_the_limit(token_count: int) -> None:
    package, encoder = build("bert", "int8")
    assert package.manifest.max_token_count == 64
    ids = np.arange(token_count) % package.manifest.vocabulary_size

    found = encoder.run([ids, ids[::-1], ids])

    assert np.isfinite(found).all()
    assert found[0].tobytes() == found[2].tobytes() == encoder.run([ids])[0].tobytes()


def test_threads_share_no_arena() -> None:
    # Its buffers would travel between the cores' caches: no test could see that but by the clock, which is not to be trusted.
    assert not session_options().enable_cpu_mem_arena
