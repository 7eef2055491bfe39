"""Evaluation sets in files: sentence pairs with scores, retrieval collections in BEIR layout, labelled texts.

Whatever is wrong with a file is said with its name and line number: a set that is read half gives a wrong figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Column names in use, in lower case: those of the STS benchmark, GLUE, SICK, PAWS and sentence-transformers' data sets.
FIRST = ("sentence1", "sentence_1", "sentence_a", "text1", "text_a", "question1")
SECOND = ("sentence2", "sentence_2", "sentence_b", "text2", "text_b", "question2")
SCORE = ("score", "similarity_score", "relatedness_score", "similarity", "label", "is_duplicate")


class EvaluationError(ValueError):
    """An evaluation set or an option cannot be used; the message names the file and the line and says what to do."""


@dataclass(frozen=True, slots=True)
class Sts:
    """Sentence pairs with a score each, on any scale: higher is more alike."""

    first: Sequence[str]
    second: Sequence[str]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A corpus, queries and their judgements: query index -> {document index: gain}, gains above 0."""

    documents: Sequence[str]
    queries: Sequence[str]
    judgements: Mapping[int, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Classification:
    """Texts and their labels."""

    texts: Sequence[str]
    labels: Sequence[str]


def read_sts(file: Path) -> Sts:
    """Reads a TSV file whose header names two sentences and a score; quotes are ordinary characters.

    Raises:
        EvaluationError: a column is missing, a line has another number of fields or no number for a score, or there are
            fewer than 2 pairs, or all have one score.
        OSError: the file cannot be read.
    """
    rows = list(_table(file, FIRST, SECOND, SCORE))
    if len(rows) < 2:
        raise EvaluationError(f"{file} has {len(rows)} sentence pairs; a score needs at least 2")
    scores = np.array([_number(file, line, score) for line, (_, _, score) in rows])
    if (scores == scores[0]).all():
        raise EvaluationError(
            f"{file}: every pair has the score {scores[0]:g}; give pairs that are more and less alike"
        )
    return Sts([first for _, (first, _, _) in rows], [second for _, (_, second, _) in rows], scores)


def read_retrieval(folder: Path, split: str = "test") -> Retrieval:
    """Reads a collection in BEIR layout, with the queries that ``split`` judges.

    A document is its title and its text with a blank between (BEIR, arXiv:2104.08663). Judgements of 0 or less count as none, and
    a query without any judgement above 0 is left out.

    Args:
        folder: has ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/{split}.tsv``.
        split: the file of judgements to use.

    Raises:
        EvaluationError: a line is no object with the right fields, an id is there twice, a judgement names a query or
            document that is not there or contradicts another, or nothing is judged.
        OSError: a file cannot be read.
    """
    if not (folder / "corpus.jsonl").is_file():
        raise EvaluationError(
            f"{folder} has no corpus.jsonl; give a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/)"
        )
    file = folder / "qrels" / f"{split}.tsv"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.tsv"))) or "none"
        raise EvaluationError(f"{folder} has no split {split!r}: {file} is missing; splits there are: {there}")
    documents, queries = _items(folder / "corpus.jsonl"), _items(folder / "queries.jsonl")
    place = {key: i for i, key in enumerate(documents)}
    gains: dict[str, dict[int, float]] = {}
    seen: dict[tuple[str, str], float] = {}
    for line, (query, document, score) in _table(file, ("query-id",), ("corpus-id",), ("score",)):
        if query not in queries:
            raise EvaluationError(
                f"{file}, line {line}: queries.jsonl has no query {query!r}; complete it or drop the line"
            )
        if document not in place:
            raise EvaluationError(
                f"{file}, line {line}: corpus.jsonl has no document {document!r}; complete it or drop the line"
            )
        gain = _number(file, line, score)
        if seen.setdefault((query, document), gain) != gain:
            raise EvaluationError(
                f"{file}, line {line}: query {query!r} and document {document!r} had the score "
                f"{seen[query, document]:g} before and have {gain:g} here; drop one of the lines"
            )
        if gain > 0:
            gains.setdefault(query, {})[place[document]] = gain
    if not gains:
        raise EvaluationError(f"{file} judges no document above 0; choose another split")
    return Retrieval(list(documents.values()), [queries[q] for q in gains], dict(enumerate(gains.values())))


def read_classification(file: Path) -> Classification:
    """Reads ``label<TAB>text`` lines, without a header; blank lines are skipped.

    Raises:
        EvaluationError: a line has no tab, an empty label or text, or there are fewer than 2 labels.
        OSError: the file cannot be read.
    """
    labels, texts = [], []
    for number, line in _lines(file):
        label, tab, text = line.partition("\t")
        if not (tab and label.strip() and text.strip()):
            raise EvaluationError(f"{file}, line {number}: expected a label, a tab and a text, got {line[:40]!r}")
        labels.append(label.strip())
        texts.append(text)
    if len(set(labels)) < 2:
        raise EvaluationError(f"{file} has {len(set(labels))} different labels; classification needs at least 2")
    return Classification(texts, labels)


def _table(file: Path, *columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers and the fields of the asked columns, each given by the names that it may have, in any case."""
    lines = _lines(file)
    _, header = next(lines, (1, ""))
    if not header:
        raise EvaluationError(f"{file} is empty; give a file whose first line names the columns, separated by tabs")
    names = [name.strip().lower() for name in header.split("\t")]
    places = []
    for wanted in columns:
        place = next((names.index(name) for name in wanted if name in names), None)
        if place is None:
            raise EvaluationError(
                f"{file}, line 1: no column {wanted[0]!r} in {', '.join(names)[:80]!r}; the first line must name the "
                f"columns, separated by tabs (names taken: {', '.join(wanted)})"
            )
        places.append(place)
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(names):
            raise EvaluationError(
                f"{file}, line {number}: {len(fields)} fields, but line 1 names {len(names)}; mend the line"
            )
        yield number, tuple(fields[place] for place in places)


def _items(file: Path) -> dict[str, str]:
    """Texts by id of a JSON lines file with ``_id``, ``text`` and perhaps ``title``."""
    found: dict[str, str] = {}
    for number, line in _lines(file):
        try:
            item = json.loads(line)
            key, text, title = item["_id"], item["text"], item.get("title") or ""
            if not all(isinstance(value, str) for value in (key, text, title)):
                raise TypeError
            f"{key}{title}{text}".encode()  # half a surrogate pair, which JSON can spell, is no text
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvaluationError(
                f'{file}, line {number}: expected {{"_id": "…", "text": "…"}}, got {line[:60]!r}'
            ) from error
        if key in found:
            raise EvaluationError(f"{file}, line {number}: _id {key!r} is there twice; ids must differ")
        found[key] = f"{title} {text}".strip()
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank. Split at line feeds only: texts may hold other characters that break lines."""
    try:
        content = file.read_bytes().decode("utf-8-sig")  # read as text, single carriage returns would break lines, too
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise EvaluationError(f"{file}, line {number}: not UTF-8; convert the file") from error
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _number(file: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise EvaluationError(f"{file}, line {line}: the score {text[:40]!r} is no number; mend the line")
    return value
