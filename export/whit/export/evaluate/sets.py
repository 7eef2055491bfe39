"""Evaluation sets that a model can be put to: each gives an outcome for a model's vectors, cut and kept in some way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whit.contract.vectors import truncate
from whit.export.evaluate.codes import Code, pair_similarity, recoded, search
from whit.export.evaluate.data import (
    Classification,
    EvaluationError,
    Retrieval,
    Sts,
    read_classification,
    read_retrieval,
    read_sts,
)
from whit.export.evaluate.limit import SUBSET_SIZE, limit_set
from whit.export.evaluate.metrics import DEPTH, FloatMatrix, ndcg_by_query, recall_by_query
from whit.export.evaluate.model import DOCUMENT, QUERY, Model
from whit.export.evaluate.outcome import Outcome
from whit.export.evaluate.probe import out_of_fold_hits


@dataclass(frozen=True, slots=True)
class Form:
    """What is done to vectors before they are compared.

    Attributes:
        dimension_count: leading columns that are kept, then scaled to length 1; None: all.
        code: how documents (of pairs and labelled texts: both sides) are kept.
        centred: whether the mean of the set's own documents is taken away before bits are made of them.
    """

    dimension_count: int | None = None
    code: Code = Code.FLOAT32
    centred: bool = False

    def cut(self, vectors: FloatMatrix) -> FloatMatrix:
        """The leading columns of unit vectors, at length 1 again."""
        count = self.dimension_count or vectors.shape[1]
        return vectors if count == vectors.shape[1] else truncate(vectors, count, normalize=True)

    def centre(self, vectors: FloatMatrix) -> FloatMatrix | None:
        """The mean of cut vectors, if these are to be centred."""
        return vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if self.centred else None


class EvaluationSet(Protocol):
    """A named set with one metric."""

    @property
    def name(self) -> str:
        """As tables call it."""

    @property
    def metric(self) -> str:
        """What its score is, x 100."""

    def outcome(self, model: Model, form: Form) -> Outcome:
        """What the model makes of each item."""


@dataclass(frozen=True, slots=True)
class StsSet:
    """Sentence pairs: Spearman's correlation of the cosines with the scores."""

    name: str
    data: Sts
    metric: str = "Spearman"

    def outcome(self, model: Model, form: Form) -> Outcome:
        """One value a pair."""
        first, second = (form.cut(model.embed(side)) for side in (self.data.first, self.data.second))
        similarity = pair_similarity(first, second, form.code, form.centre(np.concatenate([first, second])))
        return Outcome.correlation(similarity, self.data.scores)


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A collection and judged queries: nDCG@10 with linear gain."""

    name: str
    data: Retrieval
    metric: str = "nDCG@10"

    def outcome(self, model: Model, form: Form) -> Outcome:
        """One value a query."""
        best = _best(model, self.data, form, DEPTH)
        return Outcome(ndcg_by_query(best, self.data.judgements))


@dataclass(frozen=True, slots=True)
class ClassificationSet:
    """Labelled texts: accuracy of a linear probe on vectors it was not fitted to."""

    name: str
    data: Classification
    metric: str = "accuracy"

    def outcome(self, model: Model, form: Form) -> Outcome:
        """One value a text."""
        vectors = form.cut(model.embed(self.data.texts))
        code = Code.BINARY if form.code is Code.BINARY_RESCORED else form.code
        features = recoded(vectors, code, form.centre(vectors))
        return Outcome(out_of_fold_hits(features, self.data.labels).astype(np.float64))


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The stress test of ``limit``: every pair of documents is the answer to a query."""

    name: str
    data: Retrieval
    metric: str = f"recall@{SUBSET_SIZE}"

    def outcome(self, model: Model, form: Form) -> Outcome:
        """One value a query."""
        best = _best(model, self.data, form, SUBSET_SIZE)
        return Outcome(recall_by_query(best, self.data.judgements))


def open_sets(
    *,
    sts: Sequence[Path] = (),
    retrieval: Sequence[str] = (),
    classification: Sequence[Path] = (),
    limit: int | None = None,
) -> list[EvaluationSet]:
    """Reads evaluation sets, before a model spends any time.

    Args:
        sts: TSV files of scored sentence pairs.
        retrieval: folders in BEIR layout, each with ``:split`` behind it if that is not ``test``.
        classification: files of ``label<TAB>text``.
        limit: documents of the generated stress test; None: none.

    Raises:
        EvaluationError: a set is ill-formed, or none was given.
        OSError: a file cannot be read.
    """
    found: list[EvaluationSet] = [StsSet(file.stem, read_sts(file)) for file in sts]
    for place in retrieval:
        folder, split = _folder_and_split(place)
        found.append(RetrievalSet(f"{folder.name}:{split}", read_retrieval(folder, split)))
    found += [ClassificationSet(file.stem, read_classification(file)) for file in classification]
    if limit is not None:
        found.append(LimitSet(f"limit-{limit}", limit_set(limit)))
    if not found:
        raise EvaluationError(
            "no evaluation set was given; name a file of pairs, a retrieval folder or a file of labels"
        )
    return found


def _best(model: Model, data: Retrieval, form: Form, depth: int) -> NDArray[np.intp]:
    documents = form.cut(model.embed(data.documents, role=DOCUMENT))
    queries = form.cut(model.embed(data.queries, role=QUERY))
    return search(documents, queries, form.code, form.centre(documents), depth)


def _folder_and_split(place: str) -> tuple[Path, str]:
    head, colon, split = place.rpartition(":")
    if colon and not Path(place).is_dir():
        return Path(head), split
    return Path(place), "test"
