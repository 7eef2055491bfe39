"""Texts read as n-grams: which words, which n-grams, which rows; and how misspelt text is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tables
from whit.contract.manifest import Ngrams
from whit.export.cosines import unit_rows
from whit.export.static.fit import FitOptions, bags, fit
from whit.export.static.ngrams import HashedNgrams, common_vectors
from whit.export.static.typos import misspell
from whit.runtime import open_encoder, open_package, open_tokenizer
from whit.runtime.ngrams import NgramReader, split_words

ROWS = 1 << 16


def row(gram: str) -> int:
    """FNV-1a as docs/package-format.md has it."""
    value = 2166136261
    for byte in gram.encode():
        value = ((value ^ (byte + 0xFFFFFF00 if byte > 127 else byte)) * 16777619) % 2**32
    return value % ROWS


def read(text: str) -> list[int]:
    (ids,) = NgramReader(Ngrams(3, 4), ROWS).encode([text])
    return ids.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cat, sat.", ["the", "cat", ",", "sat", "."]),
        ("snake_case 3.5%", ["snake", "_", "case", "3", ".", "5", "%"]),
        ("\uff21\uff22\uff23 \ufb01ne NAÏVE", ["abc", "fine", "naïve"]),
        ("a\u00a0b\tc\n", ["a", "b", "c"]),
        ("cafe\u0301", ["café"]),  # composed
        (" ", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_and_signs(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_a_text_is_the_ngrams_of_its_words_in_order() -> None:
    assert read("Cat,") == [row(gram) for gram in ("<ca", "<cat", "cat", "cat>", "at>", "<,>")]
    assert read("čaj") == [row(gram) for gram in ("<ča", "<čaj", "čaj", "čaj>", "aj>")]
    assert read("  ") == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_any_text_is_read_the_same_again_and_beside_others(texts: list[str]) -> None:
    reader = NgramReader(Ngrams(2, 5), 97)
    alone = [reader.encode([text])[0].tolist() for text in texts]

    found = reader.encode(texts)

    assert [ids.tolist() for ids in found] == alone
    assert all(ids.dtype == np.int64 and np.all((ids >= 0) & (ids < 97)) for ids in found)


def test_a_lone_surrogate_is_refused_as_ever() -> None:
    with pytest.raises(UnicodeEncodeError):
        NgramReader(Ngrams(3, 4), ROWS).encode(["fine", "\ud800"])


def test_too_long_a_text_keeps_its_first_ngrams() -> None:
    reader = NgramReader(Ngrams(3, 4), ROWS)
    (ids,) = reader.encode(["the cat"])

    assert reader.cut(ids, 3).tolist() == [row(gram) for gram in ("<th", "<the", "the")]
    assert reader.cut(ids, 100) is not None
    assert HashedNgrams(Ngrams(3, 4), ROWS).encode(["the cat"], 3)[0].tolist() == ids[:3].tolist()


def test_a_misspelt_word_keeps_most_of_its_ngrams() -> None:
    right, wrong = set(read("thermodynamics")), set(read("thermodynmaics"))

    assert len(right & wrong) > len(right) / 2


@pytest.mark.parametrize("dtype", ["int8", "float16", "pq"])
def test_a_vector_has_the_same_bits_alone_and_in_any_batch(dtype: str, tmp_path: Path) -> None:
    package = open_package(tables.write(tmp_path / "p", dtype, ngrams=Ngrams(3, 4)))
    encoder, reader = open_encoder(package), open_tokenizer(package)
    texts = ["the house", "tHe  HOUSE", "many of the long names " * 20, "a", "čaj!", "the the"]

    alone = np.concatenate([encoder.run(reader.encode([text])) for text in texts])

    assert np.array_equal(encoder.run(reader.encode(texts)), alone)
    assert np.array_equal(encoder.run(reader.encode(texts[::-1]))[::-1], alone)
    assert np.array_equal(alone[0], alone[1])


def test_typos_are_one_swap_or_one_letter_less_in_each_long_word() -> None:
    text = "Between us, another 12345 café wonderful_thing"
    words = ["Between", "another", "wonderful", "thing"]
    slips = {
        w: {w[:i] + w[i + 1 :] for i in range(len(w) - 1)}
        | {w[:i] + w[i + 1] + w[i] + w[i + 2 :] for i in range(len(w) - 1)}
        for w in words
    }
    seen = set()
    for seed in range(20):
        wrong = misspell(text, np.random.default_rng(seed))
        first, rest = wrong.split(" us, ")
        second, rest = rest.split(" 12345 café ")
        found = dict(zip(words, [first, second, *rest.split("_")], strict=True))
        assert all(found[word] in slips[word] for word in words)
        seen |= {len(found[word]) - len(word) for word in words}
    assert seen == {0, -1}


def test_a_share_of_typos_is_about_that_share_and_the_same_for_a_seed() -> None:
    text = " ".join(["between"] * 2000)
    one, two = (misspell(text, np.random.default_rng(3), share=0.25) for _ in range(2))

    assert one == two
    assert 400 < sum(word != "between" for word in one.split()) < 600
    assert misspell(text, np.random.default_rng(3), share=0) == text
    assert misspell("each four", np.random.default_rng(3)) == "each four"


def test_a_student_that_reads_typos_forgives_them() -> None:
    """A teacher whose vectors are sums of random ones, a word's each; texts that were held out, misspelt."""
    pytest.importorskip("scipy")
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdeiorstu"), size=7)) for _ in range(60)]
    meanings = rng.normal(size=(len(words), 24)).astype(np.float32)
    drawn = [rng.choice(len(words), size=4, replace=False) for _ in range(2200)]
    texts = [" ".join(words[i] for i in some) for some in drawn]
    targets = unit_rows(np.stack([meanings[some].sum(axis=0) for some in drawn]))
    tokens = HashedNgrams(Ngrams(3, 4), 2048)

    found = []
    for share in (0.0, 1.0):
        read = tokens.encode([*texts[:2000], *(misspell(text, rng, share=share) for text in texts[:2000])], 512)
        wanted = np.concatenate([targets[:2000]] * 2)
        seen = bags(read, len(tokens))
        table = fit(seen, wanted, common_vectors(seen, wanted), FitOptions(epochs=10, batch_size=256))
        slips = tokens.encode([misspell(text, rng) for text in texts[2000:]], 512)
        found.append(float((unit_rows(bags(slips, len(tokens)) @ table) * targets[2000:]).sum(axis=1).mean()))

    assert found[1] > found[0] + 0.05, found
