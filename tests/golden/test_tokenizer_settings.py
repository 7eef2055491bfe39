"""Text is read as transformers reads it, for any settings beside ``tokenizer.json`` and for any tokenizer class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.normalizers import NFC, BertNormalizer, Sequence

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.errors import CheckpointError

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]

# Every setting changes what becomes of one of these words.
WORDS = ("The", "the", "Café", "café", "Cafe", "cafe", "東京", "東", "京")
TEXT = "The Café 東京 the\u0007"  # a bell, which BERT's normaliser takes out

SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
MISSING = None
FAMILIES = ("bert", "distilbert", "electra", "mpnet")
CLASSES = (
    "BertTokenizer",
    "BertTokenizerFast",
    "ElectraTokenizerFast",
    "MPNetTokenizer",
    "PreTrainedTokenizerFast",
    None,
)
STORED = {
    "cased": BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False, clean_text=False),
    "uncased": BertNormalizer(lowercase=True),
    "in a sequence": Sequence([NFC(), BertNormalizer(lowercase=False)]),
}


@pytest.fixture(scope="module", autouse=True)
def needs_train_extra() -> None:
    pytest.importorskip("transformers")


def write_folder(folder: Path, family: str = "bert") -> dict[str, int]:
    tiny.write_checkpoint(folder, family)
    ids = {token: row for row, token in enumerate([*list(tiny.vocabulary(family))[:5], *WORDS])}
    tokenizer = tiny.tokenizer(family)
    tokenizer.model = tokenizers.models.WordPiece(ids, unk_token="[UNK]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ids


def write_settings(folder: Path, tokenizer_class: str | None, settings: Mapping[str, Any]) -> None:
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    stated = {name: value for name, value in settings.items() if value is not MISSING}
    named = {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    tiny.write_json(folder / "tokenizer_config.json", special | named | stated)


def all_settings() -> Iterator[dict[str, Any]]:
    for values in itertools.product((MISSING, True, False), repeat=len(SETTINGS)):
        yield dict(zip(SETTINGS, values, strict=True))


def their_ids(folder: Path) -> list[int]:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("tokenizer_class", CLASSES)
def test_settings_count_as_in_transformers(tokenizer_class: str | None, stored: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.normalizer = STORED[stored]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    seen = set()
    for settings in all_settings():
        write_settings(tmp_path, tokenizer_class, settings)
        found = read_checkpoint(tmp_path).tokenizer.encode(TEXT).ids
        assert found == their_ids(tmp_path), settings
        seen.add(tuple(found))
    assert len(seen) == (1 if tokenizer_class == "PreTrainedTokenizerFast" else 8)


@pytest.mark.parametrize(
    ("family", "has_file"),
    [(family, True) for family in FAMILIES] + [(family, False) for family in FAMILIES if family != "mpnet"],
)
def test_without_settings_the_defaults_of_the_model_count(family: str, has_file: bool, tmp_path: Path) -> None:
    write_folder(tmp_path, family)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.normalizer = STORED["cased"]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    if has_file:
        write_settings(tmp_path, None, {})
    else:  # for which MPNet's tokenizer would expect other special tokens than this vocabulary has
        (tmp_path / "tokenizer_config.json").unlink()

    found = read_checkpoint(tmp_path)

    assert found.tokenizer.encode(TEXT).ids == their_ids(tmp_path)
    assert (
        "tokenizer_config.json has no do_lower_case, which means true, tokenizer.json has lowercase false"
        in found.notes[0]
    )


def test_the_class_in_the_model_s_configuration_counts_where_no_other_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_settings(tmp_path, None, {"do_lower_case": False})
    for name, lower_case in (("PreTrainedTokenizerFast", True), ("BertTokenizerFast", False)):
        tiny.edit_json(tmp_path / "config.json", tokenizer_class=name)
        tokenizer = read_checkpoint(tmp_path).tokenizer
        assert tokenizer.normalizer.lowercase is lower_case
        assert tokenizer.encode(TEXT).ids == their_ids(tmp_path)


def test_what_a_refused_folder_without_tokenizer_json_is_advised_to_do_reads_as_before(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for number, settings in enumerate(all_settings()):
        folder = tmp_path / str(number)
        ids = write_folder(folder)
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in ids), encoding="utf-8")
        write_settings(folder, "BertTokenizer", settings)
        before = their_ids(folder)
        with pytest.raises(
            CheckpointError, match=r"AutoTokenizer\.from_pretrained\(folder\)\.save_pretrained\(folder\)"
        ):
            read_checkpoint(folder)

        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)

        assert read_checkpoint(folder).tokenizer.encode(TEXT).ids == before, settings
