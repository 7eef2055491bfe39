"""Each architecture's tensors end up where they belong, and an unfit checkpoint is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.errors import CheckpointError
from whit.export.families import FAMILIES, EncoderWeights, encoder_weights

QKV = {
    "bert": "encoder.layer.1.attention.self.{}",
    "roberta": "encoder.layer.1.attention.self.{}",
    "xlm-roberta": "encoder.layer.1.attention.self.{}",
    "electra": "encoder.layer.1.attention.self.{}",
    "distilbert": "transformer.layer.1.attention.{}_lin",
    "mpnet": "encoder.layer.1.attention.attn.{}",
}


def weights_of(folder: Path, family: str = "bert", **changes: Any) -> EncoderWeights:
    return encoder_weights(read_checkpoint(tiny.write_checkpoint(folder, family, **changes)))


def refuses(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        encoder_weights(read_checkpoint(folder))
    for word in words:
        assert word in str(caught.value)


def write_tensors(folder: Path, tensors: tiny.Tensors) -> None:
    save_file(tensors, folder / "model.safetensors")


def test_all_families_are_tested() -> None:
    assert set(FAMILIES) == set(tiny.FAMILIES)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_shape_of_the_model(family: str, tmp_path: Path) -> None:
    weights = weights_of(tmp_path, family)

    assert weights.architecture == family
    assert (weights.hidden_count, weights.head_count, len(weights.layers)) == (32, 4, 2)
    assert weights.max_token_count == tiny.MAX_TOKEN_COUNT
    assert weights.position_offset == (2 if tiny.counts_from_padding(family) else 0)
    assert (weights.projection is not None) == (family == "electra")
    assert (weights.relative_bias is not None) == (family == "mpnet")
    assert weights.epsilon == (1e-5 if tiny.counts_from_padding(family) else 1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_query_key_and_value_lie_side_by_side(family: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny.write_checkpoint(tmp_path, family))
    parts = "qkv" if family in ("distilbert", "mpnet") else ("query", "key", "value")
    names = [QKV[family].format(part) for part in parts]

    qkv = encoder_weights(checkpoint).layers[1].qkv

    for i, name in enumerate(names):
        columns = slice(32 * i, 32 * (i + 1))
        assert np.array_equal(qkv.weight[:, columns], checkpoint.tensors[f"{name}.weight"].T)
        assert np.array_equal(qkv.bias[columns], checkpoint.tensors[f"{name}.bias"])


def test_first_token_type_is_added_to_the_positions(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny.write_checkpoint(tmp_path, "bert"))
    tensors = checkpoint.tensors

    expected = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    assert np.array_equal(encoder_weights(checkpoint).positions, expected)


@pytest.mark.parametrize("prefix", ["bert.", "model.encoder."])
def test_tensors_below_a_prefix(prefix: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    plain = read_checkpoint(folder)
    write_tensors(
        folder, {prefix + name: array for name, array in plain.tensors.items()} | {"cls.bias": np.zeros(3, np.float32)}
    )

    assert np.array_equal(encoder_weights(read_checkpoint(folder)).words, encoder_weights(plain).words)


@pytest.mark.parametrize(
    ("stated", "found"),
    [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu")],
)
def test_activations(stated: str, found: str, tmp_path: Path) -> None:
    assert weights_of(tmp_path, hidden_act=stated).activation == found


def test_padding_id_moves_the_positions(tmp_path: Path) -> None:
    assert weights_of(tmp_path, "roberta", pad_token_id=4).position_offset == 5
    assert weights_of(tmp_path, "mpnet", pad_token_id=4).position_offset == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "t5"}, ["model_type 't5'", "bert, roberta"]),
        ({"model_type": None}, ["model_type"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type 'relative_key'", "absolute"]),
        ({"is_decoder": True}, ["is_decoder"]),
        ({"hidden_act": "silu"}, ["hidden_act 'silu'", "gelu"]),
        ({"hidden_act": ["gelu"]}, ["hidden_act ['gelu']"]),
        ({"layer_norm_eps": float("nan")}, ["layer_norm_eps", "nan"]),
        ({"num_hidden_layers": None}, ["num_hidden_layers must be a positive integer", "None"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "got 0"]),
        ({"num_attention_heads": "4"}, ["num_attention_heads", "'4'"]),
        ({"num_attention_heads": 5}, ["5 attention heads", "hidden size 32"]),
        ({"layer_norm_eps": 0}, ["layer_norm_eps", "got 0"]),
    ],
)
def test_unfit_configuration(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    tiny.write_json(folder / "config.json", tiny.config_of("bert") | changes)

    refuses(folder, *words)


def test_more_layers_in_the_configuration_than_in_the_weights(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    tiny.write_json(folder / "config.json", tiny.config_of("bert") | {"num_hidden_layers": 3})

    refuses(folder, "'encoder.layer.2.attention.self.query.weight'", "complete?")


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.self.key.bias",
        "encoder.layer.1.output.dense.weight",
    ],
)
def test_missing_tensor(name: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    write_tensors(folder, {key: array for key, array in read_checkpoint(folder).tensors.items() if key != name})

    refuses(folder, name)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("embeddings.position_embeddings.weight", (64, 16), "position_embeddings"),
        ("embeddings.word_embeddings.weight", (409,), "word_embeddings"),
        ("embeddings.LayerNorm.weight", (16,), "embeddings.LayerNorm"),
        ("encoder.layer.0.attention.self.key.weight", (32, 16), "encoder.layer.0.attention.self.key"),
        ("encoder.layer.0.attention.self.key.bias", (16,), "encoder.layer.0.attention.self.key"),
        ("encoder.layer.1.attention.output.dense.weight", (32, 16), "attention output of layer 1"),
        ("encoder.layer.1.output.dense.weight", (32, 48), "second feed-forward of layer 1"),
        ("encoder.layer.1.output.LayerNorm.bias", (), "encoder.layer.1.output.LayerNorm"),
    ],
)
def test_tensor_of_another_shape(name: str, shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    write_tensors(folder, dict(read_checkpoint(folder).tensors) | {name: np.zeros(shape, np.float32)})

    refuses(folder, words, "shape")


def test_a_token_without_an_embedding(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    count = len(tiny.vocabulary())

    with pytest.raises(CheckpointError, match=f"token '<new>' with id {count}, but the weights have {count} word"):
        encoder_weights(read_checkpoint(folder))


def test_embedding_size_without_a_projection(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "electra")
    tensors = read_checkpoint(folder).tensors
    write_tensors(folder, {name: array for name, array in tensors.items() if "embeddings_project" not in name})

    refuses(folder, "embeddings of size 16", "hidden size of 32", "no projection")


@pytest.mark.parametrize(
    ("second", "bias", "words"),
    [((16, 8), (8,), "Dense number 2 has weights of shape [8, 16]"), ((24, 8), (7,), "a bias of [7]")],
)
def test_a_dense_module_that_does_not_fit(
    second: tuple[int, int], bias: tuple[int], words: str, tmp_path: Path
) -> None:
    folder = tiny.write_checkpoint(tmp_path, dense_sizes=(24, 8))
    tensors = {"linear.weight": np.zeros(second[::-1], np.float32), "linear.bias": np.zeros(bias, np.float32)}
    save_file(tensors, folder / "3_Dense" / "model.safetensors")

    refuses(folder, words, "24 values come in")


def test_layers_of_the_same_weights_are_one_that_is_run_twice(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, num_hidden_layers=3)
    tensors = dict(read_checkpoint(folder).tensors)
    first = {name: array for name, array in tensors.items() if "layer.0." in name}
    write_tensors(folder, tensors | {name.replace("layer.0.", "layer.2."): array for name, array in first.items()})

    layers = encoder_weights(read_checkpoint(folder)).layers

    assert layers[2] is layers[0]
    assert layers[1] is not layers[0]
