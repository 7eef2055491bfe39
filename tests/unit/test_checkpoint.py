"""The checkpoint reader: what it takes from a folder, and how it refuses what it cannot compile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from tests.support import packages, tiny
from whit.export.checkpoint import ROUNDING_FILE, CheckpointError, read_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "tiny", "bert")


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tiny.write_json(path, content | changes)


def add_module(folder: Path, kind: str, path: str) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    tiny.write_json(folder / "modules.json", [*modules, {"path": path, "type": f"sentence_transformers.models.{kind}"}])


# What it reads


def test_sentence_transformers_folder(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "tiny", "mpnet", pooling="max", dense_sizes=(24, 16), prompts={"query": "q: "}
    )

    found = read_checkpoint(folder)

    assert (found.name, found.model_type, found.pooling, found.normalize) == ("tiny", "mpnet", "max", True)
    assert found.max_token_count == tiny.MAX_TOKEN_COUNT
    assert found.prompts == {"query": "q: "}
    assert [(dense.weight.shape, dense.activation) for dense in found.dense] == [((32, 24), "tanh"), ((24, 16), "tanh")]
    stored = load_file(folder / "2_Dense" / "model.safetensors")
    assert np.array_equal(found.dense[0].weight, stored["linear.weight"].T)


def test_normalize_module_left_out(tmp_path: Path) -> None:
    assert not read_checkpoint(tiny.write_checkpoint(tmp_path, normalize=False)).normalize


def test_bare_hugging_face_folder_pools_by_mean_to_unit_length(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, pooling=None)

    assert (read_checkpoint(folder).pooling, read_checkpoint(folder).normalize) == ("mean", True)
    assert read_checkpoint(folder, pooling="cls").pooling == "cls"
    assert read_checkpoint(folder).max_token_count == tiny.MAX_TOKEN_COUNT


@pytest.mark.parametrize("stated", ["cls", ["cls"]])
def test_pooling_as_newer_sentence_transformers_writes_it(folder: Path, stated: object) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": stated})

    assert read_checkpoint(folder).pooling == "cls"


def test_encoder_in_a_folder_of_its_own(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "0_Transformer", pooling=None)
    tiny.write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    modules = [{"path": "0_Transformer", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    tiny.write_json(tmp_path / "modules.json", modules)

    assert read_checkpoint(tmp_path).pooling == "cls"


def test_sharded_weights_read_like_one_file(folder: Path) -> None:
    whole = read_checkpoint(folder).tensors
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, keys in shards.items():
        save_file({key: whole[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    tiny.write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    (folder / "model.safetensors").unlink()

    sharded = read_checkpoint(folder).tensors

    assert sorted(sharded) == names
    assert all(np.array_equal(sharded[name], whole[name]) for name in names)


@pytest.mark.parametrize(("kind", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_weights_become_float32(folder: Path, kind: str, rounding: float) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)
    save_file({name: array.astype(np.dtype(kind)) for name, array in whole.items()}, path)

    for name, array in read_checkpoint(folder).tensors.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, whole[name], rtol=rounding, atol=1e-6)


def test_layer_norms_under_their_old_names(folder: Path) -> None:
    """The weights of bert-base-uncased call them gamma and beta, as TensorFlow did."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tensors.items()
    }
    save_file(renamed, file)

    found = read_checkpoint(folder).tensors

    assert renamed.keys() != tensors.keys() == found.keys()
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())


def test_integer_buffers_are_left_out(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"embeddings.position_ids": np.arange(64)[None]}, path)

    assert "embeddings.position_ids" not in read_checkpoint(folder).tensors


def test_tokenizer_neither_cuts_nor_pads(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(path))

    found = read_checkpoint(folder).tokenizer

    assert len(found.encode("word " * 30).ids) == 32
    assert len(found.encode("word").ids) == 3


def test_tokenizer_sees_the_text_as_it_stands(folder: Path) -> None:
    # sentence-transformers strips nothing (tests/golden/test_parity.py compares), so a tokenizer that sees spaces does.
    spaces = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, " ": 1, "a": 2}, unk_token="[UNK]"))
    spaces.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    spaces.save(str(folder / "tokenizer.json"))

    assert read_checkpoint(folder).tokenizer.encode(" a ").ids == [1, 2, 1]


def test_lower_case_setting_is_put_into_the_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(path))
    assert "[UNK]" in read_checkpoint(folder).tokenizer.encode("SERVER").tokens

    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)

    assert read_checkpoint(folder).tokenizer.encode("SERVER").tokens == ["[CLS]", "server", "[SEP]"]


def test_token_limit_that_means_none(folder: Path) -> None:
    tiny.write_json(folder / "sentence_bert_config.json", {})
    tiny.write_json(folder / "tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656})

    assert read_checkpoint(folder).max_token_count is None


def test_license_from_the_model_card(folder: Path) -> None:
    assert read_checkpoint(folder).license == "unknown"

    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", encoding="utf-8")
    (folder / "LICENSE").write_text("...", encoding="utf-8")

    found = read_checkpoint(folder)
    assert found.license == "apache-2.0"
    assert [path.name for path in found.license_files] == ["LICENSE"]


def test_matryoshka_sizes(folder: Path) -> None:
    tiny.write_json(folder / "config_sentence_transformers.json", {"matryoshka_dims": [32, 16]})

    assert read_checkpoint(folder).matryoshka_dimension_counts == (32, 16)


@pytest.mark.parametrize("file", ["model.safetensors", "2_Dense/model.safetensors", "config.json", "tokenizer.json"])
def test_hash_covers_every_file_that_shapes_vectors(tmp_path: Path, file: str) -> None:
    first = tiny.write_checkpoint(tmp_path / "a", dense_sizes=(24,))
    second = tiny.write_checkpoint(tmp_path / "b", dense_sizes=(24,))
    assert read_checkpoint(first).sha256 == read_checkpoint(second).sha256

    if file.endswith(".safetensors"):
        save_file({name: array + 1 for name, array in load_file(second / file).items()}, second / file)
    else:
        (second / file).write_bytes((second / file).read_bytes() + b"\n")

    assert read_checkpoint(first).sha256 != read_checkpoint(second).sha256


def test_hash_covers_the_rounding_that_the_weights_were_trained_with(folder: Path) -> None:
    hashes = {read_checkpoint(folder).sha256}
    for content in (b"one", b"another"):
        (folder / ROUNDING_FILE).write_bytes(content)
        hashes.add(read_checkpoint(folder).sha256)

    assert len(hashes) == 3


# What it refuses


def refuses(folder: Path, *words: str, pooling: str | None = None) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder, pooling=pooling)
    for word in words:
        assert word in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", "is not a folder", "config.json")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"])
def test_missing_file(folder: Path, file: str) -> None:
    (folder / file).unlink()

    refuses(folder, file, "is missing")


def test_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    refuses(folder, "pickled", "can run code", "safe_serialization")


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda data: b"\xff" * 16 + data]
)
def test_corrupt_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))

    refuses(folder, "model.safetensors cannot be read", "copy the file again")


def test_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny.write_json(folder / "model.safetensors.index.json", {"weight_map": {"x": "model-00001-of-00001.safetensors"}})

    refuses(folder, "model-00001-of-00001.safetensors is missing")


def test_empty_shard_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny.write_json(folder / "model.safetensors.index.json", {})

    refuses(folder, "model.safetensors.index.json")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"])
@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "is not valid JSON"), (b"\xff\xfe", "is not valid JSON"), (b"3", "JSON")]
)
def test_broken_json(folder: Path, file: str, content: bytes, words: str) -> None:
    (folder / file).write_bytes(content)

    refuses(folder, file, words, "copy the file again")


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    refuses(folder, "tokenizer.json cannot be read")


def test_two_poolings_at_once(folder: Path) -> None:
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    refuses(folder, "1_Pooling", "mean + max", "one of mean, cls, max")

    tiny.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": ["cls", "mean"]})
    refuses(folder, "cls + mean")


def test_two_pooling_modules(folder: Path) -> None:
    add_module(folder, "Pooling", "1_Pooling")

    refuses(folder, "2 Pooling modules")


@pytest.mark.parametrize("mode", ["lasttoken", "ditto", "ditto-0-1", "ditto-LAYER-HEAD"])
def test_other_poolings(folder: Path, mode: str) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": mode})

    refuses(folder, mode, "one of mean, cls, max")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "weightedmean"}, "weighted_mean"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted_mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_mean_tokens": False}, "mean_sqrt_len"),
        ({"pooling_mode": "ditto-1-10"}, "ditto-1-10"),
    ],
)
def test_poolings_under_the_names_of_others(folder: Path, config: dict[str, object], pooling: str) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", config)

    assert read_checkpoint(folder).pooling == pooling


def test_pooler_of_a_model_without_one(folder: Path) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "pooler"})

    refuses(folder, "pooler.dense.weight")


def test_no_pooling(folder: Path) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": False})

    refuses(folder, "pooling none")


def test_pooling_without_the_prompt(folder: Path) -> None:
    edit_json(folder / "1_Pooling" / "config.json", include_prompt=False)

    refuses(folder, "include_prompt")


def test_pooling_option(folder: Path) -> None:
    refuses(folder, "pooling must be one of", "'middle'", pooling="middle")
    refuses(folder, "pools by 'mean'", "leave out --pooling cls", pooling="cls")
    assert read_checkpoint(folder, pooling="mean").pooling == "mean"


def test_unknown_module(folder: Path) -> None:
    add_module(folder, "LSTM", "3_LSTM")

    refuses(folder, "modules.json", "'LSTM'", "Transformer, Pooling, Dense, Normalize")


def test_dense_after_normalize(folder: Path) -> None:
    tiny.write_dense(folder / "3_Dense", 32, 16)
    add_module(folder, "Dense", "3_Dense")

    refuses(folder, "Dense after Normalize")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "Mish"),
        ({"use_residual": True}, "use_residual"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
    ],
)
def test_dense_that_cannot_be_compiled(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = tiny.write_checkpoint(tmp_path, dense_sizes=(16,))
    edit_json(folder / "2_Dense" / "config.json", **change)

    refuses(folder, "2_Dense", words)


def test_dense_without_its_weight(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, dense_sizes=(16,))
    save_file({"other": np.zeros(3, np.float32)}, folder / "2_Dense" / "model.safetensors")

    refuses(folder, "linear.weight")


def test_dense_that_states_no_activation_uses_tanh(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, dense_sizes=(16,))
    tiny.write_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 16})

    assert read_checkpoint(folder).dense[0].activation == "tanh"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length 2 leaves no room for a text"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts must be an object"),
        ("config.json", {"matryoshka_dims": 8}, "matryoshka_dims must be a list of positive integers, got 8"),
        ("config.json", {"matryoshka_dims": ["8"]}, "matryoshka_dims must be a list"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, file: str, change: dict[str, Any], words: str) -> None:
    edit_json(folder / file, **change)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


def test_weights_that_are_not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("intermediate.dense.weight"))
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors")

    refuses(folder, "model.safetensors", name, "not finite", "copy the file again")


def test_a_package_in_the_place_of_a_checkpoint() -> None:
    refuses(packages.package(), "is a package", "give the checkpoint folder that it was made from")
