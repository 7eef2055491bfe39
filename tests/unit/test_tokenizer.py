"""The package's tokenizer: every token is counted, nothing is cut unasked, and a cut keeps the special tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.support import packages, tiny
from whit.contract.manifest import TOKENIZER_FILE
from whit.runtime import tokenizer as module
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

CLS, SEP = (tiny.vocabulary()[token] for token in ("[CLS]", "[SEP]"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(open_package(packages.package()))


def test_tokens_by_hand(tokenizer: Tokenizer) -> None:
    ids = tiny.vocabulary()

    found = tokenizer.encode(["The words", ""])

    assert [sequence.tolist() for sequence in found] == [[CLS, ids["the"], ids["words"], SEP], [CLS, SEP]]
    assert all(sequence.dtype == np.int64 for sequence in found)


def test_no_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]) == []


def test_a_text_is_never_cut_nor_padded(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode(["time " * 5000, "time"])

    assert [len(ids) for ids in found] == [5002, 3]


def test_truncation_and_padding_in_the_file_are_put_aside(tmp_path: Path) -> None:
    directory = packages.copy(tmp_path / "package")
    stored = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    stored.enable_truncation(4)
    stored.enable_padding(length=32)
    stored.save(str(directory / TOKENIZER_FILE))
    packages.reseal(directory)

    found = Tokenizer(open_package(directory)).encode(["time and time again", "time"])

    assert [len(ids) for ids in found] == [6, 3]


def test_nul_bytes_and_odd_characters_are_text_like_any_other(tokenizer: Tokenizer) -> None:
    for text in ("a\0b", "\0", "\u202e", "🙂" * 100, "a\ud7ffb", "\U0010ffff"):
        (ids,) = tokenizer.encode([text])
        assert (ids[0], ids[-1]) == (CLS, SEP)


def test_a_lone_surrogate_has_no_utf8_form(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode(["fine", "a\ud800b"])


@pytest.mark.parametrize(
    ("count", "limit", "wanted"),
    [
        (10, 12, [2, *range(100, 110), 3]),
        (10, 8, [2, *range(100, 106), 3]),
        (10, 3, [2, 100, 3]),
        (10, 2, [2, 100]),  # no room for both ends and a token: the beginning
        (10, 1, [2]),
    ],
)
def test_cut_keeps_the_special_tokens(tokenizer: Tokenizer, count: int, limit: int, wanted: list[int]) -> None:
    ids = np.array([2, *range(100, 100 + count), 3])

    assert tokenizer.cut(ids, limit).tolist() == wanted


def test_cut_is_what_the_tokenizers_library_does(tokenizer: Tokenizer) -> None:
    library = tiny.tokenizer()
    library.enable_truncation(9)
    text = "time and time again the people made good answers"

    (ids,) = tokenizer.encode([text])

    assert len(ids) > 9
    assert tokenizer.cut(ids, 9).tolist() == library.encode(text).ids


def test_one_end_only(tmp_path: Path) -> None:
    directory = packages.copy(tmp_path / "package")
    stored = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    stored.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", CLS)])
    stored.save(str(directory / TOKENIZER_FILE))
    packages.reseal(directory)
    tokenizer = Tokenizer(open_package(directory))

    (ids,) = tokenizer.encode(["time and time again"])

    assert tokenizer.cut(ids, 3).tolist() == ids[:3].tolist()


def test_a_special_token_written_out_in_a_text_does_not_move_the_cut(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["[SEP] [SEP] time and time again [SEP]"])

    assert tokenizer.cut(ids, 5).tolist() == [*ids[:4].tolist(), SEP]


def test_threads_get_what_one_caller_gets(tokenizer: Tokenizer) -> None:
    texts = [f"number {i} " * (i % 7 + 1) for i in range(64)]
    wanted = [ids.tolist() for ids in tokenizer.encode(texts)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: [ids.tolist() for ids in tokenizer.encode(texts)], range(8)))

    assert found == [wanted] * 8


class Watched:
    """The library, noting each batch that it is given."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self.batches: list[list[str]] = []
        self._library = library

    def encode(self, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
        return self.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[tokenizers.Encoding]:
        self.batches.append(texts)
        return self._library.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


@pytest.fixture
def watched(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    found = Watched(tiny.tokenizer())
    monkeypatch.setattr(tokenizer, "_tokenizer", found)
    monkeypatch.setattr(tokenizer, "_words", None)  # as if no text were plain
    monkeypatch.setattr(module, "_SHORT_LENGTH", 0)
    monkeypatch.setattr(module, "_PART_LENGTH", 12)
    return found


TEXTS = ["time", "the words", "again", "a", "b", "time and time again", "", "the"]
PARTS = [["time"], ["the words"], ["again", "a", "b"], ["time and time"], [" again"], ["", "the"]]


def test_many_texts_are_read_in_parts_with_the_same_tokens(tokenizer: Tokenizer, watched: Watched) -> None:
    found = tokenizer.encode(TEXTS)

    assert watched.batches == PARTS
    assert [ids.tolist() for ids in found] == [e.ids for e in tiny.tokenizer().encode_batch(TEXTS)]


def test_a_part_is_read_when_its_tokens_are_asked_for(tokenizer: Tokenizer, watched: Watched) -> None:
    each = tokenizer.encode_each(TEXTS)

    next(each)

    assert watched.batches == PARTS[:1]


@pytest.mark.parametrize("count", [2, 4])
def test_no_part_is_read_after_the_check_has_raised(tokenizer: Tokenizer, watched: Watched, count: int) -> None:
    def check() -> None:
        if len(watched.batches) == count:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(tokenizer.encode_each(TEXTS, check))

    assert watched.batches == PARTS[:count]
