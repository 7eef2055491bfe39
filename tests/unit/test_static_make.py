"""Making a static student: what it learns, what goes into the package, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import packages, tables, tiny
from whit.contract.manifest import STATIC, TABLE_FILE, TOKENIZER_FILE, Ngrams, read_manifest
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.runtime import Tokenizer, Verification, open_encoder, open_package, open_tokenizer, verify

pytest.importorskip("scipy")

from whit.export.static import StaticOptions, StaticReport, make_static
from whit.export.static.tokens import choose_tokens

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "was",
    "on",
    "are",
    "as",
    "with",
    "at",
    "be",
    "this",
    "have",
    "from",
    "one",
    "had",
    "by",
    "but",
    "not",
    "what",
    "all",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    lines = [" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(600)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def make(out: Path, corpus: Path, cache: Path, **changes: object) -> StaticReport:
    options = {"texts": (corpus,), "cache": cache, "epochs": 30, "dimension_count": 16}
    return make_static(packages.package(), out, StaticOptions(**(options | changes)))  # type: ignore[arg-type]


def check(directory: Path) -> Verification:
    package = open_package(directory)
    return verify(package, open_tokenizer(package), open_encoder(package))


@pytest.mark.parametrize("dtype", ["int8", "float16", "pq"])
def test_a_student_comes_near_its_teacher(dtype: str, corpus: Path, cache: Path, tmp_path: Path) -> None:
    report = make(tmp_path / "static", corpus, cache, dtype=dtype, code_count=8)

    assert report.cosine > report.start_cosine + 0.05
    assert report.similarity_correlation > 0.5
    manifest = read_manifest(tmp_path / "static")
    assert (manifest.kind, manifest.dtype, manifest.dimension_count) == (STATIC, dtype, 16)
    assert manifest.fingerprint == report.fingerprint
    assert manifest.vocabulary_size == report.token_count
    found = check(tmp_path / "static")
    assert (found.verified, found.mixes_lengths, found.max_abs_difference) == (True, True, 0)


def test_the_same_input_gives_the_same_bytes(corpus: Path, cache: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, corpus, cache, epochs=2)

    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_second_run_asks_the_teacher_nothing(corpus: Path, cache: Path, tmp_path: Path) -> None:
    make(tmp_path / "first", corpus, cache, epochs=1)
    stages: set[str] = set()
    options = StaticOptions((corpus,), cache=cache, epochs=1, dimension_count=8)

    make_static(packages.package(), tmp_path / "second", options, lambda stage, done, total: stages.add(stage))

    assert "teacher (texts)" not in stages
    assert "fit (steps)" in stages


def test_a_vocabulary_of_a_given_size_still_reads_any_text(corpus: Path, cache: Path, tmp_path: Path) -> None:
    size = 140
    report = make(tmp_path / "static", corpus, cache, vocabulary_size=size, epochs=1)

    tokenizer = Tokenizer(open_package(tmp_path / "static"))
    (ids,) = tokenizer.encode(["father before seven 42!"])
    assert report.token_count == size
    assert len(ids) > 5
    assert ids.max() < size
    names = json.loads((tmp_path / "static" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert {"the", "of", "and"} <= set(names)  # frequent in the corpus
    assert "father" not in names
    assert names["[UNK]"] not in ids


def test_frequent_words_in_pieces_become_tokens(cache: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "texts.txt"
    rng = np.random.default_rng(1)
    lines = [" ".join([*rng.choice(WORDS, size=4), "embedding"]) for _ in range(300)]
    corpus.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")

    make(tmp_path / "static", corpus, cache, word_count=5, epochs=1)

    tokenizer = Tokenizer(open_package(tmp_path / "static"))
    (ids,) = tokenizer.encode(["Embedding"])
    assert len(ids) == 1


def test_each_token_stands_for_the_teachers_own(tmp_path: Path) -> None:
    """New words got the ids of tokens that somebody had added to the vocabulary, and these began with the words' rows."""
    source = tiny.write_checkpoint(tmp_path / "source", vocab_size=len(tiny.vocabulary()) + 1)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["whit-24"])
    tokenizer.save(str(source / "tokenizer.json"))
    compile_checkpoint(source, tmp_path / "teacher", ExportOptions(dtype="float32"))
    text = "The embedding of whit-24 helicopters"

    tokens = choose_tokens(open_package(tmp_path / "teacher"), [text] * 5, None, 2)

    (ids,) = tokens.encode([text], 64)
    assert len(ids) == 5
    assert [row for i in ids for row in tokens.pieces[i]] == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_student_of_ngrams_comes_near_its_teacher_without_a_tokenizer(
    corpus: Path, cache: Path, tmp_path: Path
) -> None:
    report = make(tmp_path / "static", corpus, cache, ngram_row_count=256, longest_ngram=4)

    assert report.cosine > report.start_cosine + 0.02
    assert report.similarity_correlation > 0.5
    assert (report.token_count, report.tokenizer_bytes) == (256, 0)
    manifest = read_manifest(tmp_path / "static")
    assert (manifest.ngrams, manifest.vocabulary_size, manifest.max_token_count) == (Ngrams(3, 4), 256, 4096)
    assert not (tmp_path / "static" / TOKENIZER_FILE).exists()
    assert check(tmp_path / "static").verified


def test_no_special_token_is_put_in_or_read(corpus: Path, cache: Path, tmp_path: Path) -> None:
    make(tmp_path / "static", corpus, cache, epochs=1)

    tokenizer = Tokenizer(open_package(tmp_path / "static"))
    the, named = tokenizer.encode(["the", "[CLS] the"])
    assert len(the) == 1
    assert len(named) > 3  # punctuation and pieces, like any other text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension_count": 4000}, "dimension_count must be at most"),
        ({"dimension_count": 0}, "dimension_count must be at least 1"),
        ({"text_count": 2}, "text_count must be at least 3"),
        ({"dtype": "int4"}, "dtype must be one of float16, int8, pq, got 'int4'"),
        ({"dtype": "pq", "code_count": 5}, "code_count must divide dimension_count (16), got 5"),
        ({"vocabulary_size": 10}, "vocabulary_size must be at least"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": 2.0}, "learning_rate must be between 0 and 1"),
        ({"name": "a/b"}, "name must be"),
        ({"teacher_dtype": "int4"}, "teacher_dtype must be one of float32, int8, got 'int4'"),
        ({"typo_share": 1.5}, "typo_share must be 0 to 1, got 1.5"),
        ({"ngram_row_count": 0}, "ngram_row_count must be 1 to"),
        ({"ngram_row_count": 64, "shortest_ngram": 5}, "got 5 and 4"),
        ({"ngram_row_count": 64, "longest_ngram": 9}, "longest_ngram <= 8, got 3 and 9"),
        ({"ngram_row_count": 64, "vocabulary_size": 64}, "vocabulary_size is about tokens"),
        ({"texts": (Path("nowhere.txt"),)}, "nowhere.txt cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused(
    changes: dict[str, object], message: str, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as refused:
        make(tmp_path / "static", corpus, cache, **changes)

    assert message in str(refused.value)
    assert not (tmp_path / "static").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [(["the same"] * 200, "1 different texts"), (["\u200b" * n for n in range(1, 200)], "0 different")],
)
def test_texts_of_which_nothing_can_be_learned(lines: list[str], words: str, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{words}.*give at least 3"):
        make_static(packages.package(), tmp_path / "out", StaticOptions((path,), cache=cache, dimension_count=16))


def test_texts_without_a_token_are_left_out_and_a_report_is_json(cache: Path, tmp_path: Path) -> None:
    """All others are one unknown character, so that nothing correlates; the held-out ones would have had no token."""
    path = tmp_path / "texts.txt"
    lines = ["\u200b" * n for n in range(1, 2000)] + [chr(0x1F600 + n) for n in range(200)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    report = make_static(
        packages.package(), tmp_path / "out", StaticOptions((path,), cache=cache, dimension_count=16, epochs=1)
    )

    assert (report.text_count, report.held_out_count) == (200, 4)
    assert np.isfinite([report.cosine, report.similarity_correlation]).all()


def test_a_teacher_without_a_tokenizer_teaches_ngrams_only(corpus: Path, cache: Path, tmp_path: Path) -> None:
    teacher = tables.write(tmp_path / "teacher", ngrams=Ngrams(3, 4))
    options = StaticOptions((corpus,), cache=cache, epochs=2, dimension_count=8)

    with pytest.raises(CheckpointError, match="has no tokenizer to take tokens from; give ngram_row_count, too"):
        make_static(teacher, tmp_path / "static", options)
    report = make_static(teacher, tmp_path / "static", replace(options, ngram_row_count=128))

    assert report.cosine > report.start_cosine


def test_a_checkpoint_teaches_in_int8_where_that_is_asked(corpus: Path, tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "checkpoint")
    options = StaticOptions(
        (corpus,), cache=tmp_path / "cache", epochs=2, dimension_count=16, text_count=200, teacher_dtype="int8"
    )

    report = make_static(tmp_path / "checkpoint", tmp_path / "static", options)

    (teacher,) = (tmp_path / "cache").glob("teacher-*")
    made = read_manifest(tmp_path / "static")
    assert read_manifest(teacher).dtype == "int8"
    assert made.provenance["teacher_fingerprint"] == read_manifest(teacher).fingerprint
    assert report.cosine > report.start_cosine


def test_what_is_no_package_is_not_replaced(corpus: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "mine.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="exists and is not a package"):
        make(tmp_path / "static", corpus, cache)

    assert not (tmp_path / "static" / TABLE_FILE).exists()
