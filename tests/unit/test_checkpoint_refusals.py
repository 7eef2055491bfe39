"""What a checkpoint folder may not be: every refusal names the file and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import packages, tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "tiny", "bert")


def add_module(folder: Path, kind: str, path: str) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    tiny.write_json(folder / "modules.json", [*modules, {"path": path, "type": f"sentence_transformers.models.{kind}"}])


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


@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_a_setting_of_the_tokenizer_that_is_not_true_or_false(folder: Path, setting: str) -> None:
    tiny.write_json(folder / "tokenizer_config.json", {setting: "yes"})

    refuses(folder, f"tokenizer_config.json: {setting} must be true or false, got 'yes'; correct it there")


def test_joined_poolings_of_which_one_cannot_be_compiled(folder: Path) -> None:
    tiny.edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=True)
    refuses(folder, "1_Pooling", "mean+lasttoken", "one of mean, cls, max", "several of the first 5 joined by +")

    for modes in (["cls", "pooler"], ["first_last", "mean"], ["mean", "ditto-1-1"]):
        tiny.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": modes})
        refuses(folder, "+".join(modes))


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max+mean"),
        (dict.fromkeys(("pooling_mode_weightedmean_tokens", "pooling_mode_cls_token"), True), "cls+weighted_mean"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
        ({"pooling_mode": ["mean_sqrt_len_tokens"]}, "mean_sqrt_len"),
    ],
)
def test_joined_poolings_in_the_order_in_which_sentence_transformers_joins_them(
    folder: Path, config: dict[str, object], pooling: str
) -> None:
    tiny.write_json(folder / "1_Pooling" / "config.json", config)

    assert read_checkpoint(folder).pooling == pooling


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
    tiny.edit_json(folder / "1_Pooling" / "config.json", include_prompt=False)

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
    tiny.edit_json(folder / "2_Dense" / "config.json", **change)

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
        ("config_sentence_transformers.json", {"prompts": {"query": 5}}, "prompts: 'query' must be a text, got 5"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "q: "}, "default_prompt_name": "title"},
            r"default_prompt_name 'title' is none of its prompts \(query\); correct it there",
        ),
        ("config.json", {"matryoshka_dims": 8}, "matryoshka_dims must be a list of positive integers, got 8"),
        ("config.json", {"matryoshka_dims": ["8"]}, "matryoshka_dims must be a list"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, file: str, change: dict[str, Any], words: str) -> None:
    tiny.edit_json(folder / file, **change)
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
