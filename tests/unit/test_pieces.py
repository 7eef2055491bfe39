"""A long text read in pieces has the tokens of the whole, and where that is not known it is read whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from tests.support import packages, tiny
from whit.contract.manifest import TOKENIZER_FILE
from whit.runtime import tokenizer as module
from whit.runtime.package import open_package
from whit.runtime.pieces import cutting_places, split
from whit.runtime.tokenizer import Tokenizer

ADDED = [
    AddedToken("<mask>", lstrip=True, single_word=True, special=True),
    AddedToken("e.g", rstrip=True, normalized=True),
    AddedToken("cafe", single_word=True, normalized=True),
]
WORDS = st.sampled_from(
    [
        "the",
        "time",
        "[SEP]",
        "<mask>",
        "E.G",
        "café",
        "cafe\u0301",
        "\u0301",
        "\u0345",
        "Σ",
        "İ",
        "ﬁ",
        "中文",
        "\0",
        "\u2003",
    ]
)
ASCII = st.characters(min_codepoint=0, max_codepoint=127)
TEXTS = st.lists(WORDS | ASCII | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)


def opened(directory: Path, library: tokenizers.Tokenizer) -> Tokenizer:
    packages.copy(directory)
    library.save(str(directory / TOKENIZER_FILE))
    packages.reseal(directory)
    return Tokenizer(open_package(directory))


@pytest.fixture(scope="module", params=["plain", "added", "accents kept"])
def library(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    found = tiny.tokenizer()
    if request.param == "added":
        found.add_tokens(ADDED)
    if request.param == "accents kept":
        found.normalizer = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    return found


@pytest.fixture(scope="module")
def tokenizer(library: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    found = opened(tmp_path_factory.mktemp("pieces") / "package", library)
    assert found._places is not None
    return found


@given(TEXTS, st.integers(1, 6))
def test_the_tokens_are_those_of_the_whole(
    library: tokenizers.Tokenizer, tokenizer: Tokenizer, text: str, length: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART_LENGTH", length)
        (found,) = tokenizer.encode([text])

    assert found.tolist() == library.encode(text).ids


@given(TEXTS, st.integers(1, 6))
def test_nothing_is_lost_between_pieces(text: str, length: int) -> None:
    places = cutting_places(tiny.tokenizer())
    assert places is not None

    pieces = list(split(text, places, length))

    assert "".join(pieces) == text
    assert all(len(piece) >= length for piece in pieces[:-1])
    assert all(places.match(piece) for piece in pieces[1:])


def test_no_cut_at_a_character_of_an_added_token() -> None:
    library = tiny.tokenizer()
    library.add_tokens(ADDED)

    places = cutting_places(library)

    assert places is not None
    assert [c for c in " .,<>[]_a-" if places.match(c)] == [" ", ",", "-"]


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer"])
def test_other_tokenizers_read_a_text_whole(change: str) -> None:
    library = tiny.tokenizer()
    if change == "normalizer":
        library.normalizer = normalizers.NFC()
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace()

    assert cutting_places(library) is None


def test_a_text_put_between_two_special_tokens_twice_is_read_whole(tmp_path: Path) -> None:
    library, sep = tiny.tokenizer(), tiny.vocabulary()["[SEP]"]
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP] $A", special_tokens=[("[SEP]", sep)]
    )

    assert opened(tmp_path / "package", library)._places is None
