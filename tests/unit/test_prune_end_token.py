"""The special token after a text is left out, and nothing else about how it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.errors import CheckpointError
from whit.export.prune.end_token import EndTokenOptions, drop_end_token
from whit.runtime.opening import open_tokenizer
from whit.runtime.package import open_package

TEXTS = ["The girl found a Book", "a car", "água near the sea 1234"]


def ids_of(folder: Path) -> list[list[int]]:
    return [encoding.ids for encoding in read_checkpoint(folder).tokenizer.encode_batch(TEXTS)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_texts_lose_their_last_token_and_nothing_else(family: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", family)

    report = drop_end_token(source, tmp_path / "out", EndTokenOptions())

    before, after = read_checkpoint(source), read_checkpoint(tmp_path / "out")
    assert ids_of(tmp_path / "out") == [ids[:-1] for ids in ids_of(source)]
    assert report.token_count_before - 1 <= report.token_count < report.token_count_before  # most are cut to 64
    assert len(report.dropped) == 1
    assert read_steps(tmp_path / "out")[-1]["dropped"] == list(report.dropped)
    assert all(np.array_equal(after.tensors[name], array) for name, array in before.tensors.items())
    assert (after.config, after.pooling, after.max_token_count) == (
        before.config,
        before.pooling,
        before.max_token_count,
    )


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_older_forms_of_a_post_processor(kind: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    vocabulary = read_checkpoint(source).tokenizer.get_vocab()
    form: dict[str, Any] = {"type": kind, "sep": ["[SEP]", vocabulary["[SEP]"]], "cls": ["[CLS]", vocabulary["[CLS]"]]}
    if kind == "RobertaProcessing":
        form |= {"trim_offsets": True, "add_prefix_space": False}
    tiny.edit_json(source / "tokenizer.json", post_processor=form)
    pair = read_checkpoint(source).tokenizer.encode("a book", "a car")

    report = drop_end_token(source, tmp_path / "out", EndTokenOptions())

    assert report.dropped == ("[SEP]",)
    assert ids_of(tmp_path / "out") == [ids[:-1] for ids in ids_of(source)]
    after = read_checkpoint(tmp_path / "out").tokenizer.encode("a book", "a car")
    assert (after.ids, after.type_ids) == (pair.ids, pair.type_ids)


def test_the_package_reads_as_the_checkpoint_does(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    drop_end_token(source, tmp_path / "out", EndTokenOptions())

    compile_checkpoint(tmp_path / "out", tmp_path / "package", ExportOptions(dtype="int8"))

    found = open_tokenizer(open_package(tmp_path / "package")).encode(TEXTS)
    assert [list(ids) for ids in found] == ids_of(tmp_path / "out")


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_transformers_reads_it_the_same(family: str, tmp_path: Path) -> None:
    """It puts BERT's special tokens itself where the folder names BERT's class, and knows their names from there."""
    transformers = pytest.importorskip("transformers")
    source = tiny.write_checkpoint(tmp_path / "source", family)
    tiny.write_json(source / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    drop_end_token(source, tmp_path / "out", EndTokenOptions())

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, padding=True)

    rows = zip(theirs["input_ids"], theirs["attention_mask"], strict=True)
    assert [row[: sum(mask)] for row, mask in rows] == ids_of(tmp_path / "out")
    assert ("token_type_ids" in theirs) == (family == "bert")


def test_a_tokenizer_that_puts_none_there_is_refused(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    drop_end_token(source, tmp_path / "once", EndTokenOptions())

    with pytest.raises(CheckpointError, match="puts no special token after a text"):
        drop_end_token(tmp_path / "once", tmp_path / "twice", EndTokenOptions())
    assert not (tmp_path / "twice").exists()
    assert json.loads((tmp_path / "once" / "tokenizer_config.json").read_text())["tokenizer_class"]
