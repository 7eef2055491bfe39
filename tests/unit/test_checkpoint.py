"""The checkpoint reader: what it takes from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from tests.support import tiny
from whit.export.checkpoint import ROUNDING_FILE, read_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "tiny", "bert")


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

    tiny.edit_json(folder / "sentence_bert_config.json", do_lower_case=True)

    assert read_checkpoint(folder).tokenizer.encode("SERVER").tokens == ["[CLS]", "server", "[SEP]"]


@pytest.mark.parametrize(
    ("tokenizer_class", "obeyed"), [("BertTokenizer", True), (None, True), ("PreTrainedTokenizerFast", False)]
)
def test_tokenizer_config_counts_where_transformers_obeys_it(
    tokenizer_class: str | None, obeyed: bool, folder: Path
) -> None:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(path))
    tiny.edit_json(folder / "tokenizer_config.json", do_lower_case=True, tokenizer_class=tokenizer_class)

    found = read_checkpoint(folder)

    assert ("server" in found.tokenizer.encode("SERVER").tokens) == obeyed
    said = "tokenizer_config.json has do_lower_case true, tokenizer.json has lowercase false; the former counts, as in transformers"
    assert list(found.notes) == ([said] if obeyed else [])


def test_a_cased_tokenizer_without_do_lower_case_is_read_as_transformers_reads_it(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(path))
    tiny.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})

    found = read_checkpoint(folder)

    assert found.tokenizer.encode("SERVER").tokens == ["[CLS]", "server", "[SEP]"]
    said = "tokenizer_config.json has no do_lower_case, which means true, tokenizer.json has lowercase false"
    assert list(found.notes) == [f"{said}; the former counts, as in transformers"]


def test_a_default_prompt_is_not_put_before_texts_and_that_is_said(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, prompts={"query": "q: ", "plain": ""})
    file = folder / "config_sentence_transformers.json"
    assert read_checkpoint(folder).notes == ()

    tiny.edit_json(file, default_prompt_name="plain")
    assert read_checkpoint(folder).notes == ()

    tiny.edit_json(file, default_prompt_name="query")
    (said,) = read_checkpoint(folder).notes
    assert "the prompt 'query' before texts for which none is named" in said
    assert said.endswith("whit embed --role query")


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


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ('---\nlicense: "apache-2.0"\n---\n', "apache-2.0"),
        ("\ufeff---\r\nlicense: mit  # as the base\r\n---\r\n", "mit"),
        ("---\nlicense:\ntags:\n- en\n---\n", "unknown"),  # it was "tags:"
        ("---\nlicense_name: own\n---\nTo pass it on write\nlicense: mit\n---\n", "unknown"),
        ("A model\n---\nlicense: mit\n---\n", "unknown"),
    ],
)
def test_license_as_model_cards_spell_it(card: str, name: str, folder: Path) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8", newline="")

    assert read_checkpoint(folder).license == name


def test_a_prompt_that_is_null_is_none(folder: Path) -> None:
    """It was the word None before every query."""
    tiny.write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": None, "document": "d: "}})

    assert read_checkpoint(folder).prompts == {"query": "", "document": "d: "}


def test_vectors_that_sentence_transformers_cuts_are_whole_and_that_is_said(folder: Path) -> None:
    tiny.write_json(folder / "config_sentence_transformers.json", {"truncate_dim": None})
    assert read_checkpoint(folder).notes == ()

    tiny.write_json(folder / "config_sentence_transformers.json", {"truncate_dim": 8})
    (said,) = read_checkpoint(folder).notes
    assert said.startswith("sentence-transformers cuts this model's vectors to 8 dimensions (truncate_dim)")
    assert said.endswith("whit embed --dimensions 8")


def test_matryoshka_sizes(folder: Path) -> None:
    tiny.write_json(folder / "config_sentence_transformers.json", {"matryoshka_dims": [32, 16]})

    assert read_checkpoint(folder).matryoshka_dimension_counts == (32, 16)


def change_weights(folder: Path, file: str) -> None:
    save_file({name: array + 1 for name, array in load_file(folder / file).items()}, folder / file)


def change_tokens(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["whit"])
    tokenizer.save(str(folder / "tokenizer.json"))


def json_change(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: tiny.edit_json(folder / file, **changes)


DECISIVE: dict[str, Callable[[Path], None]] = {
    "weights": lambda folder: change_weights(folder, "model.safetensors"),
    "weights of a Dense": lambda folder: change_weights(folder, "2_Dense/model.safetensors"),
    "activation of a Dense": json_change("2_Dense/config.json", activation_function="torch.nn.modules.linear.Identity"),
    "configuration": json_change("config.json", layer_norm_eps=0.5),
    "tokenizer": change_tokens,
    "class of the tokenizer": json_change(
        "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False
    ),
    "lower case": json_change("sentence_bert_config.json", do_lower_case=True),
    "limit": json_change("sentence_bert_config.json", max_seq_length=8),
    "pooling": json_change("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True),
    "prompts": json_change("config_sentence_transformers.json", prompts={"query": "q: "}),
    "normalisation": lambda folder: tiny.write_json(
        folder / "modules.json", json.loads((folder / "modules.json").read_text(encoding="utf-8"))[:-1]
    ),
}
INCIDENTAL: dict[str, Callable[[Path], None]] = {
    "model card": lambda folder: (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8"),
    "spaces": lambda folder: (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n"),
    "version of transformers": json_change("config.json", transformers_version="0.0", _name_or_path="/elsewhere"),
    "where the tokenizer came from": json_change("tokenizer_config.json", name_or_path="/elsewhere"),
    "setting that says what is so": json_change("tokenizer_config.json", clean_up_tokenization_spaces=True),
}


@pytest.mark.parametrize("change", [*DECISIVE, *INCIDENTAL])
def test_hash_changes_with_what_decides_vectors_and_with_nothing_else(tmp_path: Path, change: str) -> None:
    first = tiny.write_checkpoint(tmp_path / "a", dense_sizes=(24,), prompts={})
    second = tiny.write_checkpoint(tmp_path / "b", dense_sizes=(24,), prompts={})
    assert read_checkpoint(first).sha256 == read_checkpoint(second).sha256

    (DECISIVE | INCIDENTAL)[change](second)

    assert (read_checkpoint(first).sha256 != read_checkpoint(second).sha256) == (change in DECISIVE)


def test_hash_covers_the_rounding_that_the_weights_were_trained_with(folder: Path) -> None:
    hashes = {read_checkpoint(folder).sha256}
    for content in (b"one", b"another"):
        (folder / ROUNDING_FILE).write_bytes(content)
        hashes.add(read_checkpoint(folder).sha256)

    assert len(hashes) == 3
