"""The short cut past the tokenizer gives the tokenizer's own tokens, for every text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from tests.support import packages, tables, tiny
from whit.contract.manifest import TOKENIZER_FILE
from whit.runtime import Tokenizer, open_package, words
from whit.runtime.words import WordMemory, reads_words_apart

TEXTS = [
    "The House, and many of the long names!",
    "  spaces   and\ttabs\nand lines ",
    "snake_case e-mail@example.com 3.14 (x|y) `a`",
    "Žluťoučký kůň 短い文 naïve",
    "a\x00b\x7fc\u00a0d",
    "x" * 200,
    " ",
    "[CLS] [UNK] ##ing",
    "the [mask] of a[SEP]house",
]


@pytest.fixture(scope="module", params=["table", "graph"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of a table of rows, without special tokens, and of a graph, with [CLS] and [SEP] around a text."""
    is_table = request.param == "table"
    folder = tables.write(tmp_path_factory.mktemp("words") / "static") if is_table else packages.package()
    found = Tokenizer(open_package(folder))
    assert found._words is not None
    return found


def same(tokenizer: Tokenizer, texts: list[str]) -> bool:
    return [ids.tolist() for ids in tokenizer.encode(texts)] == tokenizer._read(texts)


def test_known_cases(tokenizer: Tokenizer) -> None:
    assert same(tokenizer, TEXTS)
    assert same(tokenizer, TEXTS[::-1])  # by now most words are known


@given(st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=127)), max_size=4))
def test_any_ascii_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert same(tokenizer, texts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_any_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert same(tokenizer, texts)


def test_a_lone_surrogate_is_refused_as_ever(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode(["fine", "\ud800"])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_WORD_COUNT", 3)
    asked: list[str] = []

    def read(texts):
        asked.extend(texts)
        return [[len(text), 7] for text in texts]

    memory = WordMemory(read)

    for _ in range(2):
        found = memory.encode("one three fives " + "y" * 40 + " sevenss eightttt")
        assert np.array_equal(found, [3, 7, 5, 7, 5, 7, 40, 7, 7, 7, 8, 7])
    assert asked.count("one") == asked.count("three") == asked.count("fives") == 1
    assert asked.count("eightttt") == asked.count("y" * 40) == 2
    assert len(memory._known) == 3


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("normalizer", normalizers.Lowercase()),
        ("normalizer", normalizers.BertNormalizer(lowercase=False)),
        ("pre_tokenizer", pre_tokenizers.Metaspace()),
        ("model", models.BPE()),
    ],
)
def test_other_tokenizers_are_left_alone(part: str, other: object) -> None:
    library = tiny.tokenizer()
    assert reads_words_apart(library)

    setattr(library, part, other)

    assert not reads_words_apart(library)


def test_a_tokenizer_with_an_added_token_that_is_not_ascii_is_left_alone() -> None:
    library = tiny.tokenizer()
    library.add_tokens(["caf\u00e9"])  # without its accent it is found in plain texts

    assert not reads_words_apart(library)


def with_library(folder: Path, library: tokenizers.Tokenizer) -> Tokenizer:
    packages.copy(folder)
    library.save(str(folder / TOKENIZER_FILE))
    packages.reseal(folder)
    return Tokenizer(open_package(folder))


@pytest.mark.parametrize(
    "options", [{}, {"single_word": True}, {"normalized": False}, {"lstrip": True, "rstrip": True}]
)
def test_a_token_of_two_words_is_found(tmp_path: Path, options: dict[str, bool]) -> None:
    library = tiny.tokenizer()
    library.add_tokens([tokenizers.AddedToken("The Time", **options)])
    tokenizer = with_library(tmp_path / "package", library)
    assert tokenizer._words is not None

    texts = ["again the time the time again", "The Time again", "bathe timeless", "THE  TIME", "the-time", "time the"]
    assert same(tokenizer, texts)


@pytest.mark.parametrize("template", ["[CLS] $A", "$A [SEP]", "$A"])
def test_special_tokens_at_one_end_or_none(tmp_path: Path, template: str) -> None:
    library = tiny.tokenizer()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[(token, tiny.vocabulary()[token]) for token in ("[CLS]", "[SEP]")]
    )
    tokenizer = with_library(tmp_path / "package", library)
    assert tokenizer._words is not None

    assert same(tokenizer, TEXTS)
