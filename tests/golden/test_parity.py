"""A float32 package gives the vectors of the checkpoint's own framework, for every family and pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import parity, tiny
from tests.support.reference import find_checkpoint
from whit.export.encoder_graph import relative_buckets
from whit.export.families import EncoderWeights, Layer, Linear, Norm

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]

# 1,000 texts of each family; for the poolings other than its usual one fewer will do.
TEXT_COUNTS = {"mean": 1000, "cls": 250, "max": 250}
FEW_TEXTS = 40

# Models that see every pooling here. ``python -m bench.parity`` shows it to the others too.
FOR_ALL_POOLINGS = ("bert", "roberta", "mpnet")

# Dense modules and Normalize, by pooling: each of them is left out and there at least once.
HEADS = {
    "mean": ((), True),
    "cls": ((), False),
    "max": ((24, 16), True),
    "max+mean": ((24,), True),
    "cls+mean": ((), False),
}


@pytest.fixture(scope="module", autouse=True)
def needs_train_extra() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize(
    ("model", "pooling"),
    [(m, p) for m in parity.MODELS for p in parity.POOLINGS if p in TEXT_COUNTS or m in FOR_ALL_POOLINGS],
)
def test_float_vectors_are_those_of_the_framework(model: str, pooling: str, tmp_path: Path) -> None:
    dense_sizes, normalize = HEADS.get(pooling, ((), True))
    folder = parity.save_model(tmp_path, model, pooling=pooling, dense_sizes=dense_sizes, normalize=normalize)
    texts = parity.mixed_texts(TEXT_COUNTS.get(pooling, FEW_TEXTS))

    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))

    assert found.holds, found


def test_poolings_that_are_stated_as_flags_are_joined_in_the_order_of_the_framework(tmp_path: Path) -> None:
    folder = parity.save_model(tmp_path, "bert", pooling="cls+max+weighted_mean", normalize=False)
    # In another order than theirs, as a file may have them.
    flags = ("pooling_mode_weightedmean_tokens", "pooling_mode_max_tokens", "pooling_mode_cls_token")
    tiny.write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **dict.fromkeys(flags, True)}
    )
    texts = parity.mixed_texts(FEW_TEXTS)

    found = parity.whit_vectors(folder, texts)

    assert found.shape == (FEW_TEXTS, 3 * 32)
    assert parity.compare(found, parity.reference_vectors(folder, texts)).holds


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tiny_checkpoints_made_without_torch_are_what_they_say(family: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / family, family, dense_sizes=(16,))
    texts = [" ".join(text.split()[:12]) for text in parity.mixed_texts(50)]

    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))

    assert found.holds, found


# The tokenizer, byte by byte: it sees what sentence-transformers shows it, no more and no less.
TOKENIZERS = {
    "wordpiece": tiny.tokenizer,
    "byte-level": parity.byte_level_tokenizer,
    "unigram": parity.unigram_tokenizer,
}


@pytest.mark.parametrize("lower_case", [False, True])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_texts_with_odd_spaces_case_and_scripts(kind: str, lower_case: bool, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert" if kind == "wordpiece" else "roberta")
    TOKENIZERS[kind]().save(str(folder / "tokenizer.json"))
    settings = {"max_seq_length": tiny.MAX_TOKEN_COUNT, "do_lower_case": lower_case}
    tiny.write_json(folder / "sentence_bert_config.json", settings)
    texts = parity.odd_texts()

    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))

    assert found.holds, found


@pytest.mark.reference
def test_float_vectors_of_the_reference_model_are_those_of_the_framework() -> None:
    folder = find_checkpoint()
    if folder is None:
        pytest.skip("the reference model is not installed; see the Makefile, target .model")
    texts = parity.mixed_texts(200)  # python -m bench.parity takes 1,000, which is a minute of work

    found = parity.compare(parity.whit_vectors(folder, texts), parity.reference_vectors(folder, texts))

    assert found.holds, found


def _without_bias(linear: Linear, part: slice) -> Linear:
    bias = linear.bias.copy()
    bias[part] = 0
    return Linear(linear.weight, bias)


def _in_last_layer(change: Callable[[Layer], Layer]) -> Callable[[EncoderWeights], EncoderWeights]:
    return lambda weights: dataclasses.replace(weights, layers=[*weights.layers[:-1], change(weights.layers[-1])])


def _without_qkv_bias(part: slice) -> Callable[[EncoderWeights], EncoderWeights]:
    return _in_last_layer(lambda layer: dataclasses.replace(layer, qkv=_without_bias(layer.qkv, part)))


MISTAKES: dict[str, tuple[str, Callable[[EncoderWeights], EncoderWeights]]] = {
    "value bias left out": ("bert", _without_qkv_bias(slice(64, 96))),
    "query bias left out": ("bert", _without_qkv_bias(slice(0, 32))),
    "feed-forward bias left out": (
        "distilbert",
        _in_last_layer(lambda layer: dataclasses.replace(layer, down=_without_bias(layer.down, slice(None)))),
    ),
    "tanh approximation of gelu": ("bert", lambda w: dataclasses.replace(w, activation="gelu_tanh")),
    "positions begin one too early": (
        "roberta",
        lambda w: dataclasses.replace(w, position_offset=w.position_offset - 1),
    ),
    "relative bias by the other sign": (
        "mpnet",
        lambda w: dataclasses.replace(w, relative_bias=_swapped(w.relative_bias)),
    ),
    "wrong number of heads": ("minilm", lambda w: dataclasses.replace(w, head_count=6)),
    "embedding LayerNorm without its bias": ("electra", lambda w: dataclasses.replace(w, embedding_norm=_unbiased(w))),
    "another token type": ("bert", lambda w: dataclasses.replace(w, positions=w.positions + w.words[0])),
}


def _swapped(table: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert table is not None
    return np.concatenate([table[16:], table[:16]])


def _unbiased(weights: EncoderWeights) -> Norm:
    return Norm(weights.embedding_norm.gain, np.zeros_like(weights.embedding_norm.bias))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake: str, tmp_path: Path) -> None:
    model, spoil = MISTAKES[mistake]
    folder = parity.save_model(tmp_path, model, pooling="mean")
    texts = parity.mixed_texts(30)

    wrong = parity.compare(parity.spoilt_vectors(folder, texts, spoil), parity.reference_vectors(folder, texts))

    assert not wrong.holds, wrong


@pytest.mark.parametrize("bucket_count", [16, 32, 64])
def test_relative_buckets_are_those_of_mpnet(bucket_count: int) -> None:
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = np.arange(-600, 601)
    wanted = MPNetEncoder.relative_position_bucket(torch.tensor(distances), bucket_count).numpy()

    assert np.array_equal(relative_buckets(distances, bucket_count), wanted)
