"""The packed graph computes what the model is defined to compute, and a text's vector never depends on its company."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.support import tiny
from whit.export.checkpoint import Dense, read_checkpoint
from whit.export.embedding import store_rows
from whit.export.encoder_graph import OUTPUT, Head, build_graph, relative_buckets, tap_outputs
from whit.export.errors import CheckpointError
from whit.export.families import EncoderWeights, Linear, Norm, encoder_weights
from whit.export.linear import Plan
from whit.runtime.encoder import open_session
from whit.runtime.packing import attention_length, pack

FloatArray = NDArray[np.float32]

BUCKET = 16
COUNTS = (3, 1, 16, 9)  # token counts of one attention length


def weights_of(folder: Path, family: str) -> EncoderWeights:
    return encoder_weights(read_checkpoint(tiny.write_checkpoint(folder, family)))


def sequences_of(weights: EncoderWeights, counts: tuple[int, ...] = COUNTS) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(5)
    return [random.integers(5, len(weights.words), count) for count in counts]


def run(
    session: onnxruntime.InferenceSession,
    weights: EncoderWeights,
    sequences: list[NDArray[np.int64]],
    outputs: list[str],
) -> list[FloatArray]:
    length = attention_length(max(len(ids) for ids in sequences), BUCKET)
    found: list[FloatArray] = session.run(
        outputs, pack(sequences, length=length, position_offset=weights.position_offset)
    )
    return found


def words_as(weights: EncoderWeights, dtype: str | None) -> Plan:
    """Everything in float32 but the word embeddings."""
    return Plan(words=store_rows(weights.words, dtype, code_count=16) if dtype else None)


def embed(
    weights: EncoderWeights, head: Head, sequences: list[NDArray[np.int64]], plan: Plan | None = None
) -> FloatArray:
    session = open_session(build_graph(weights, head, plan or Plan()).SerializeToString())
    return run(session, weights, sequences, [OUTPUT])[0]


# The same model, one text at a time and in float64, straight from its definition.


def reference(weights: EncoderWeights, head: Head, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    x = weights.words[ids].astype(np.float64) + weights.positions[weights.position_offset + np.arange(len(ids))]
    x = layer_norm(x, weights.embedding_norm, weights.epsilon)
    if weights.projection is not None:
        x = linear(x, weights.projection)
    states: list[NDArray[np.float64]] = []
    diagonals: dict[tuple[int, int], NDArray[np.float64]] = {}  # by layer and head
    for layer in weights.layers:
        query, key, value = np.split(linear(x, layer.qkv), 3, axis=1)
        context = np.zeros_like(x)
        width = weights.hidden_count // weights.head_count
        for head_index in range(weights.head_count):
            part = slice(head_index * width, (head_index + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            if weights.relative_bias is not None:
                distances = np.arange(len(ids))[None] - np.arange(len(ids))[:, None]
                scores = scores + weights.relative_bias[relative_buckets(distances, 32), head_index]
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            diagonals[len(states), head_index] = np.diagonal(share)
            context[:, part] = share @ value[:, part]
        x = layer_norm(linear(context, layer.out) + x, layer.attention_norm, weights.epsilon)
        inner = activate(linear(x, layer.up), weights.activation)
        x = layer_norm(linear(inner, layer.down) + x, layer.output_norm, weights.epsilon)
        states.append(x)
    v = pool(head.pooling, states, diagonals)
    for dense in head.dense:
        bias = 0 if dense.bias is None else dense.bias
        v = activate(v @ dense.weight + bias, dense.activation)
    return v / np.linalg.norm(v) if head.normalize else v


def pool(
    pooling: str, states: list[NDArray[np.float64]], diagonals: dict[tuple[int, int], NDArray[np.float64]]
) -> NDArray[np.float64]:
    if "+" in pooling:
        return np.concatenate([pool(part, states, diagonals) for part in pooling.split("+")])
    first, last = states[0], states[-1]
    match pooling.split("-"):
        case ["cls" | "pooler"]:
            v = last[0]
        case ["max"]:
            v = last.max(axis=0)
        case ["mean_sqrt_len"]:
            v = last.sum(axis=0) / math.sqrt(len(last))
        case ["weighted_mean"]:
            v = np.average(last, axis=0, weights=1 + np.arange(len(last)))
        case ["first_last"]:
            v = (first + last).mean(axis=0) / 2
        case ["ditto", layer, head]:
            v = np.average((first + last) / 2, axis=0, weights=diagonals[int(layer) - 1, int(head) - 1])
        case _:
            v = last.mean(axis=0)
    found: NDArray[np.float64] = v
    return found


def linear(x: NDArray[np.float64], layer: Linear) -> NDArray[np.float64]:
    product: NDArray[np.float64] = x @ layer.weight + layer.bias
    return product


def layer_norm(x: NDArray[np.float64], norm: Norm, epsilon: float) -> NDArray[np.float64]:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled: NDArray[np.float64] = (
        centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon) * norm.gain + norm.bias
    )
    return scaled


def activate(x: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    if kind == "gelu":
        x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    elif kind == "gelu_tanh":
        x = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    elif kind == "relu":
        x = np.maximum(x, 0)
    elif kind == "tanh":
        x = np.tanh(x)
    return x


def agree(weights: EncoderWeights, head: Head, counts: tuple[int, ...] = COUNTS) -> None:
    sequences = sequences_of(weights, counts)
    expected = np.stack([reference(weights, head, ids) for ids in sequences])
    np.testing.assert_allclose(embed(weights, head, sequences), expected, atol=2e-5)


POOLINGS = (
    *("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "first_last", "ditto-1-1", "ditto-2-3"),
    *("cls+mean", "weighted_mean+max+mean_sqrt_len"),
)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_and_pooling(family: str, pooling: str, tmp_path: Path) -> None:
    agree(weights_of(tmp_path, family), Head(pooling, normalize=False))


def test_pooler_is_a_dense_layer_and_tanh_on_the_first_token(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, pooling="pooler", dense_sizes=(8,))
    checkpoint = read_checkpoint(folder)
    tensors = checkpoint.tensors
    pooler = Dense(tensors["pooler.dense.weight"].T, tensors["pooler.dense.bias"], "tanh")

    assert checkpoint.pooling == "pooler"
    assert [dense.weight.shape for dense in checkpoint.dense] == [(32, 32), (32, 8)]
    weights, sequences = encoder_weights(checkpoint), sequences_of(encoder_weights(checkpoint))
    expected = [reference(weights, Head("cls", (pooler, checkpoint.dense[1])), ids) for ids in sequences]
    np.testing.assert_allclose(embed(weights, Head("pooler", checkpoint.dense), sequences), expected, atol=2e-5)


@pytest.mark.parametrize("pooling", ["ditto-3-1", "ditto-2-5"])
def test_a_ditto_head_that_is_not_there_is_refused(pooling: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="but the model has 2 layers of 4 heads"):
        build_graph(weights_of(tmp_path, "bert"), Head(pooling), Plan())


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_activations(activation: str, tmp_path: Path) -> None:
    agree(dataclasses.replace(weights_of(tmp_path, "bert"), activation=activation), Head("mean", normalize=False))


@pytest.mark.parametrize("head_count", [1, 2, 16])
def test_head_counts(head_count: int, tmp_path: Path) -> None:
    agree(dataclasses.replace(weights_of(tmp_path, "bert"), head_count=head_count), Head("mean"))


@pytest.mark.parametrize("head_count", [8, 16])
def test_many_heads_each_with_a_position_bias_of_its_own(head_count: int, tmp_path: Path) -> None:
    bias = np.random.default_rng(2).normal(size=(32, head_count)).astype(np.float32)
    weights = dataclasses.replace(weights_of(tmp_path, "mpnet"), head_count=head_count, relative_bias=bias)

    agree(weights, Head("mean"))


@pytest.mark.parametrize("activation", ["tanh", "identity", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_modules(activation: str, bias: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    first = Dense(
        random.normal(size=(32, 24)).astype(np.float32), random.normal(size=24).astype(np.float32), activation
    )
    second = Dense(
        random.normal(size=(24, 8)).astype(np.float32),
        first.bias[:8] if bias and first.bias is not None else None,
        "tanh",
    )
    head = Head("mean", (first, second), normalize=False)

    assert head.dimension_count(32) == 8
    agree(weights_of(tmp_path, "bert"), head)


def test_mpnet_beyond_the_distance_where_its_bias_stops_changing(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "mpnet")
    random = np.random.default_rng(1)
    longer = dataclasses.replace(weights, positions=random.normal(size=(282, 32)).astype(np.float32))

    agree(longer, Head("mean"), (280, 275))


def test_attention_length_may_exceed_the_positions(tmp_path: Path) -> None:
    """The grid is rounded up to the bucket; cells beyond the last position are empty."""
    weights = weights_of(tmp_path, "mpnet")

    agree(dataclasses.replace(weights, positions=weights.positions[:43]), Head("mean"), (41, 35))


def test_attention_without_a_mask_is_the_same_attention(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "bert")
    sequences = sequences_of(weights, (48, 48, 48))
    two_paths = build_graph(weights, Head("mean"), Plan(), unmasked_length=48).SerializeToString()

    found = run(open_session(two_paths), weights, sequences, [OUTPUT])[0]
    shorter = run(open_session(two_paths), weights, [ids[:30] for ids in sequences], [OUTPUT])[0]

    assert np.abs(found - [reference(weights, Head("mean"), ids) for ids in sequences]).max() < 2e-6
    assert np.array_equal(shorter, embed(weights, Head("mean"), [ids[:30] for ids in sequences]))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("dtype", [None, "int8", "int4", "pq"])
def test_a_vector_is_the_same_to_the_last_bit_in_any_company(
    family: str, pooling: str, dtype: str | None, tmp_path: Path
) -> None:
    weights = weights_of(tmp_path, family)
    session = open_session(build_graph(weights, Head(pooling), words_as(weights, dtype)).SerializeToString())
    sequences = sequences_of(weights, (2, 7, 16, 16, 11, 5))
    together = run(session, weights, sequences, [OUTPUT])[0]

    backwards = run(session, weights, sequences[::-1], [OUTPUT])[0][::-1]
    alone = np.concatenate([run(session, weights, [ids], [OUTPUT])[0] for ids in sequences])

    assert np.array_equal(backwards, together)
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_longer_grid_changes_no_bit(family: str, pooling: str, tmp_path: Path) -> None:
    weights = weights_of(tmp_path, family)
    session = open_session(build_graph(weights, Head(pooling), Plan()).SerializeToString())
    sequences = sequences_of(weights, (2, 3, 7, 9, 12, 15, 16))

    found = [
        session.run([OUTPUT], pack(sequences, length=length, position_offset=weights.position_offset))[0]
        for length in (16, 32, 48, 64)
    ]

    assert all(np.array_equal(found[0], longer) for longer in found[1:])


def test_dense_modules_give_the_same_bits_in_any_company(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "bert")
    dense = Dense(np.random.default_rng(0).normal(size=(32, 24)).astype(np.float32), None, "tanh")
    session = open_session(build_graph(weights, Head("cls", (dense,)), Plan()).SerializeToString())
    sequences = sequences_of(weights, (2, 7, 16))

    alone = np.concatenate([run(session, weights, [ids], [OUTPUT])[0] for ids in sequences])

    assert np.array_equal(alone, run(session, weights, sequences, [OUTPUT])[0])


@pytest.mark.parametrize(("dtype", "least"), [("int8", 0.9999), ("int4", 0.98), ("pq", 0.98)])
def test_quantized_embeddings_stay_close(dtype: str, least: float, tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "bert")
    sequences = sequences_of(weights)

    exact = embed(weights, Head("mean"), sequences)
    rounded = embed(weights, Head("mean"), sequences, words_as(weights, dtype))

    assert not np.array_equal(rounded, exact)
    assert (rounded * exact).sum(axis=1).min() > least


@pytest.mark.parametrize("dtype", ["int8", "int4", "pq"])
def test_a_word_whose_embedding_is_zero_stays_zero(dtype: str, tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "bert")
    words = weights.words.copy()
    words[7] = 0
    words[8] = 1e-9  # nothing, as a float16 scale
    weights = dataclasses.replace(weights, words=words)
    ids = [np.array([7, 8, 7])]

    rounded = embed(weights, Head("mean"), ids, words_as(weights, dtype))

    np.testing.assert_allclose(rounded, embed(weights, Head("mean"), ids), atol=0.01)


def test_vector_of_length_zero_is_not_divided_by_zero(tmp_path: Path) -> None:
    nothing = Dense(np.zeros((32, 8), np.float32), None, "identity")
    weights = weights_of(tmp_path, "bert")

    assert not embed(weights, Head("mean", (nothing,)), sequences_of(weights)).any()


def test_taps_are_the_inputs_of_the_linear_layers(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "bert")
    taps: dict[str, str] = {}
    session = open_session(build_graph(weights, Head("mean"), Plan(), taps=taps).SerializeToString())
    sequences = sequences_of(weights)

    values = dict(zip(tap_outputs(taps), run(session, weights, sequences, tap_outputs(taps)), strict=True))

    assert sorted(taps) == [f"layers.{i}.{name}" for i in range(2) for name in ("down", "out", "qkv", "up")]
    assert {name: values[output].shape[1] for name, output in taps.items() if name.startswith("layers.1")} == {
        "layers.1.qkv": 32,
        "layers.1.out": 32,
        "layers.1.up": 32,
        "layers.1.down": 64,
    }
    assert len(values[taps["layers.0.qkv"]]) == sum(COUNTS)
    first = weights.words[sequences[0]] + weights.positions[: len(sequences[0])]
    expected = layer_norm(first.astype(np.float64), weights.embedding_norm, weights.epsilon)
    np.testing.assert_allclose(values[taps["layers.0.qkv"]][: len(first)], expected, atol=1e-5)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "mpnet")

    first, second = (build_graph(weights, Head("max"), Plan()).SerializeToString() for _ in range(2))

    assert first == second


def test_relative_buckets_by_hand() -> None:
    """32 buckets: 16 for each direction, of which 8 hold one distance each and 8 grow up to 128."""
    distances = np.array([0, -1, -7, -8, -127, -128, -500, 1, 7, 8, 128, 500])

    assert relative_buckets(distances, 32).tolist() == [0, 1, 7, 8, 15, 15, 15, 17, 23, 24, 31, 31]
