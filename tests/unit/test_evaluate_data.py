"""Evaluation sets in files: what is read, and that whatever is wrong is said with the file and the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whit.export.evaluate import EvaluationError, read_classification, read_retrieval, read_sts


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def beir(folder: Path, corpus: list[object], queries: list[object], *qrels: str) -> Path:
    write(folder / "corpus.jsonl", *map(json.dumps, corpus))
    write(folder / "queries.jsonl", *map(json.dumps, queries))
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", *qrels)
    return folder


CORPUS: list[object] = [{"_id": "d1", "title": "Cats", "text": "purr"}, {"_id": "d2", "text": "bark"}]
QUERIES: list[object] = [{"_id": "q1", "text": "who barks"}, {"_id": "q2", "text": "who purrs"}]


@pytest.mark.parametrize(
    "header",
    ["score\tsentence1\tsentence2", "id\tscore\tsentence_1\tsentence_2", "Relatedness_Score\tSENTENCE_A\tSentence_B"],
)
def test_sts_columns_are_found_by_their_common_names(tmp_path: Path, header: str) -> None:
    lead = "7\t" * (header.count("\t") - 2)
    file = write(tmp_path / "s.tsv", header, f'{lead}4.5\tsay "a\tb', "", f"{lead}0\tc\u2028d\te")

    found = read_sts(file)

    assert (found.first, found.second, found.scores.tolist()) == (['say "a', "c\u2028d"], ["b", "e"], [4.5, 0])


def test_sts_with_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "s.tsv"
    file.write_bytes("\ufeffsentence1\tsentence2\tscore\r\na\tb\t1\r\nc\td\t2\r\n".encode())

    assert read_sts(file).scores.tolist() == [1, 2]


def test_a_carriage_return_in_a_text_ends_no_line(tmp_path: Path) -> None:
    file = tmp_path / "s.tsv"
    file.write_bytes(b"sentence1\tsentence2\tscore\na\rb\tc\t1\nd\te\t2\r\n")

    assert read_sts(file).first == ["a\rb", "d"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a\tb\tc", "1\t2\t3"], "line 1: no column 'sentence1'"),
        (["sentence1\tsentence2\tscore", "a\tb\t1", "a\tb"], "line 3: 2 fields, but line 1 names 3"),
        (["sentence1\tsentence2\tscore", "a\tb\t1", "", "a\tb\thigh"], "line 4: the score 'high' is no number"),
        (["sentence1\tsentence2\tscore", "a\tb\tnan", "a\tb\t1"], "line 2: the score 'nan'"),
        (["sentence1\tsentence2\tscore", "a\tb\t1"], "has 1 sentence pairs"),
        (["sentence1\tsentence2\tscore", "a\tb\t2", "c\td\t2.0"], "every pair has the score 2"),
        ([""], "s.tsv is empty; give a file whose first line names the columns"),
    ],
)
def test_bad_sts_names_the_line(tmp_path: Path, lines: list[str], words: str) -> None:
    file = write(tmp_path / "s.tsv", *lines)

    with pytest.raises(EvaluationError, match=words) as caught:
        read_sts(file)
    assert str(file) in str(caught.value)


def test_bytes_that_are_no_utf8_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "s.tsv"
    file.write_bytes(b"sentence1\tsentence2\tscore\na\tb\t1\nM\xfcnchen\tb\t2\n")

    with pytest.raises(EvaluationError, match="line 3: not UTF-8"):
        read_sts(file)


def test_retrieval_joins_titles_and_drops_judgements_of_nought(tmp_path: Path) -> None:
    folder = beir(tmp_path / "c", CORPUS, QUERIES, "q2\td1\t2", "q2\td2\t0", "q1\td2\t0")

    found = read_retrieval(folder)

    assert found.documents == ["Cats purr", "bark"]
    assert found.queries == ["who purrs"]  # q1 has no judgement above 0
    assert found.judgements == {0: {0: 2.0}}


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "words"),
    [
        (CORPUS, QUERIES, ["q9\td1\t1"], "test.tsv, line 2: queries.jsonl has no query 'q9'"),
        (
            CORPUS,
            QUERIES,
            ["q1\td1\t1", "q1\td2\t0", "q1\td1\t0"],
            "line 4: query 'q1' and document 'd1' had the score 1",
        ),
        (CORPUS, QUERIES, ["q1\td1\t1", "q1\td9\t1"], "test.tsv, line 3: corpus.jsonl has no document 'd9'"),
        (CORPUS, QUERIES, ["q1\td1\t0"], "judges no document above 0"),
        ([*CORPUS, {"_id": "d1", "text": "x"}], QUERIES, [], "corpus.jsonl, line 3: _id 'd1' is there twice"),
        ([{"_id": 3, "text": "x"}], QUERIES, [], "corpus.jsonl, line 1: expected"),
        (CORPUS, [["q1", "x"]], [], "queries.jsonl, line 1: expected"),
        (CORPUS, [{"_id": "q1", "text": "\ud800"}], [], "queries.jsonl, line 1: expected"),
    ],
)
def test_bad_retrieval_names_file_and_line(
    tmp_path: Path, corpus: list[object], queries: list[object], qrels: list[str], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_retrieval(beir(tmp_path / "c", corpus, queries, *qrels))


def test_missing_split_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no split 'dev'.*splits there are: test"):
        read_retrieval(beir(tmp_path / "c", CORPUS, QUERIES, "q1\td1\t1"), "dev")


def test_folder_without_corpus_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"has no corpus\.jsonl; give a folder in BEIR layout"):
        read_retrieval(tmp_path)


def test_classification_keeps_tabs_in_texts(tmp_path: Path) -> None:
    found = read_classification(write(tmp_path / "c.txt", "good\tfine\tday", "", "bad\train"))

    assert (found.labels, found.texts) == (["good", "bad"], ["fine\tday", "rain"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [(["good\ta", "no tab"], "line 2: expected a label"), (["good\ta", "good\tb"], "has 1 different labels")],
)
def test_bad_classification(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_classification(write(tmp_path / "c.txt", *lines))
