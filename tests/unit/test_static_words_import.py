"""Word vectors from files of each format: the same words and values, and damage refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from whit.contract.manifest import PackageError, read_manifest
from whit.export.errors import CheckpointError
from whit.export.static.word_vectors import read_word_vectors
from whit.export.static.words import WordOptions, make_from_words
from whit.runtime import Tokenizer, open_encoder, open_package, verify
from whit.runtime.ngrams import _hash, ngram_buckets

WORDS = ["the", "of", "house", "čaj", "water", "x"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
BUCKETS, SHORTEST, LONGEST = 50, 2, 4


def text(path: Path, header: bool = True) -> Path:
    lines = [f"{len(WORDS)} 8"] if header else []
    lines += [" ".join([word, *(repr(float(v)) for v in row)]) for word, row in zip(WORDS, VECTORS, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def word2vec(path: Path) -> Path:
    rows = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, VECTORS, strict=True)]
    path.write_bytes(f"{len(WORDS)} 8\n".encode() + b"".join(rows))
    return path


def fasttext(path: Path, rows: NDArray[np.float32], *, quantised: bool = False) -> Path:
    """A fastText model, with an end-of-sentence entry and a label as real ones have."""
    names = ["</s>", *WORDS]
    entries = [name.encode() + b"\0" + struct.pack("<qb", 5, 0) for name in names]
    entries.append(b"__label__a\0" + struct.pack("<qb", 5, 1))
    path.write_bytes(
        struct.pack("<2i", 793712314, 12)
        + struct.pack("<12id", 8, 5, 5, 1, 5, 1, 2, 2, BUCKETS, SHORTEST, LONGEST, 100, 1e-4)
        + struct.pack("<3i2q", len(names) + 1, len(names), 1, 1000, -1)
        + b"".join(entries)
        + struct.pack("<?2q", quantised, *rows.shape)
        + rows.tobytes()
    )
    return path


@pytest.mark.parametrize(
    "write", [text, lambda path: text(path, header=False), word2vec], ids=["text", "GloVe", "word2vec"]
)
def test_words_and_values_come_back(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = read_word_vectors(write(tmp_path / "vectors"))

    assert found.words == WORDS
    assert np.array_equal(found.vectors, VECTORS)


@pytest.mark.parametrize("header", [True, False])
def test_a_byte_order_mark_is_no_part_of_the_first_word(header: bool, tmp_path: Path) -> None:
    path = text(tmp_path / "words.txt", header)
    plain = read_word_vectors(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    marked = read_word_vectors(path)

    assert marked.words == plain.words
    assert np.array_equal(marked.vectors, plain.vectors)


def test_only_so_many_words(tmp_path: Path) -> None:
    for write in (text, word2vec):
        assert read_word_vectors(write(tmp_path / "vectors"), 2).words == WORDS[:2]


def test_a_word_of_fasttext_is_the_mean_of_its_row_and_its_ngrams(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(len(WORDS) + 1 + BUCKETS, 8)).astype(np.float32)

    found = read_word_vectors(fasttext(tmp_path / "model.bin", rows))

    assert found.words == ["</s>", *WORDS]
    assert np.array_equal(found.vectors[0], rows[0])  # the end of a sentence has no n-grams
    the = [
        rows[1],
        *(rows[7 + _hash(g) % BUCKETS] for g in (b"<t", b"<th", b"<the", b"th", b"the", b"the>", b"he", b"he>", b"e>")),
    ]
    assert np.allclose(found.vectors[1], np.mean(the, axis=0), atol=1e-6)


def test_ngrams_are_of_characters_not_of_bytes() -> None:
    grams = ["<č", "<ča", "ča", "čaj", "aj", "aj>", "j>"]

    assert ngram_buckets("čaj".encode(), 2, 3, 1 << 20) == [_hash(gram.encode()) % (1 << 20) for gram in grams]


def test_the_marks_alone_are_no_ngrams() -> None:
    assert ngram_buckets(b"ab", 1, 1, 1 << 20) == [_hash(b"a") % (1 << 20), _hash(b"b") % (1 << 20)]


def test_the_hash_is_fnv_1a() -> None:
    assert (_hash(b""), _hash(b"a"), _hash(b"foobar")) == (0x811C9DC5, 0xE40C292C, 0xBF9CF968)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"2 3\nthe 1 2 3\nof 1 2\n",
        b"2 3\nthe 1 2 three\n",
        b"999999999 999999999\nthe \x00\x00",
        word2vec,
        fasttext,
    ],
)
def test_a_file_that_is_damaged_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is word2vec:
        path.write_bytes(word2vec(path).read_bytes()[:-20])
    else:
        path.write_bytes(fasttext(path, np.ones((60, 8), np.float32)).read_bytes()[:-40])

    with pytest.raises(CheckpointError, match=r"vectors (cannot be read as|holds no) word vectors.*give a word2vec"):
        read_word_vectors(path)


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    path = fasttext(tmp_path / "model.ftz", np.ones((60, 8), np.float32), quantised=True)

    with pytest.raises(CheckpointError, match="was quantised"):
        read_word_vectors(path)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_package_of_word_vectors(dtype: str, tmp_path: Path) -> None:
    report = make_from_words(text(tmp_path / "glove.txt"), tmp_path / "p", WordOptions(dtype=dtype, dimension_count=6))

    package = open_package(tmp_path / "p")
    tokenizer, encoder = Tokenizer(package), open_encoder(package)
    assert verify(package, tokenizer, encoder).verified
    assert (report.word_count, report.lower_case, package.manifest.name) == (6, True, "glove")
    assert read_manifest(tmp_path / "p").dimension_count == 6
    vectors = encoder.run(tokenizer.encode(["The water", "the WATER unheard of!", "unheard", "water the of"]))
    assert np.array_equal(vectors[1], vectors[3])  # a word that is not in the file adds nothing
    assert not np.allclose(vectors[0], vectors[1])
    assert np.array_equal(vectors[2], np.zeros(6))


def test_case_counts_where_the_file_has_capitals(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 0\nThe 0 1\nof 1 1\n", encoding="utf-8")

    report = make_from_words(path, tmp_path / "p", WordOptions(dtype="float16"))

    tokenizer = Tokenizer(open_package(tmp_path / "p"))
    assert not report.lower_case
    assert [ids.tolist() for ids in tokenizer.encode(["the", "The"])] == [[1], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WordOptions(dimension_count=9), "dimension_count must be at most 8"),
        (WordOptions(smoothing=0.0), "smoothing must be between 0 and 1"),
        (WordOptions(dtype="pq", code_count=3), "code_count must divide dimension_count"),
        (WordOptions(name="a b"), "name must be"),
    ],
)
def test_what_cannot_be_done_is_refused(options: WordOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, PackageError), match=message):
        make_from_words(text(tmp_path / "vectors"), tmp_path / "p", options)

    assert not (tmp_path / "p").exists()


def test_a_value_that_is_no_number_is_named_by_its_line(tmp_path: Path) -> None:
    path = text(tmp_path / "words.txt", header=False)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].rsplit(" ", 1)[0] + " x"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"line 3 has what is no number"):
        read_word_vectors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("2 3\nthe 1 2 3\nof 1 2 x\n", "line 3 has what is no number"),
        ("9 3\nthe 1 2 3\nof 1 2 3\n", "its header says 9 words, it ends after 2"),
        ("-2 3\nthe 1 2 3\nof 1 2 3\n", "its header says -2 words of 3 values"),
        ("2 3\nthe 1 2 3\nof 1 nan 3\n", "vector of 'of' has values that are not finite"),
        ("the 1 2 3\nof 1 inf 3\n", "vector of 'of' has values that are not finite"),
    ],
)
def test_what_is_wrong_with_a_text_file_is_said(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_text(content)

    with pytest.raises(CheckpointError, match=message):
        read_word_vectors(path)


def test_no_more_of_a_short_file_is_missed_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_text("9 3\nthe 1 2 3\nof 1 2 3\n")

    assert read_word_vectors(path, 2).words == ["the", "of"]


def test_a_first_word_with_a_blank_in_it(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_text("2 3\nnew york 1 2 3\nof 1 2 3\n\n")

    assert read_word_vectors(path).words == ["new york", "of"]


def test_words_that_nothing_tells_apart_make_no_package(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_text("1 3\nthe 1 2 3\n")

    with pytest.raises(CheckpointError, match=r"nothing tells its words apart \(1 read\)"):
        make_from_words(path, tmp_path / "p", WordOptions())
    assert not (tmp_path / "p").exists()
