"""Puts models to evaluation sets, in every form asked for, and compares what may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whit.export.errors import OptionError
from whit.export.evaluate.model import Model, Progress, silent
from whit.export.evaluate.outcome import ROUNDS, Comparison, Interval, Outcome, compare
from whit.export.evaluate.sets import EvaluationSet, Form


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one form on one set.

    Attributes:
        model: the model's name.
        dimension_count: columns used.
        code: how vectors were kept.
        row_bytes: bytes of a vector kept so.
        score: of the set's metric, x 100.
        interval: of the score.
        against: the model and form that ``comparison`` is against: the first model's in the same form, and for the first
            model's other forms its own first form; None for the row that all begins with.
        comparison: on the same items, with significance; None where ``against`` is.
    """

    model: str
    dimension_count: int
    code: str
    row_bytes: int
    score: float
    interval: Interval
    against: str | None
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class SetResult:
    """All rows of one set."""

    name: str
    metric: str
    item_count: int
    rows: Sequence[Row]


def check_forms(models: Sequence[Model], forms: Sequence[Form]) -> None:
    """Raises ``OptionError`` if a form asks for more dimensions than a model has."""
    for model in models:
        for form in forms:
            if form.dimension_count is not None and not 1 <= form.dimension_count <= model.dimension_count:
                raise OptionError(
                    "dims",
                    f"must be 1 to {model.dimension_count}, the dimensions of {model.name}; got {form.dimension_count}",
                )


def evaluate(
    models: Sequence[Model],
    sets: Sequence[EvaluationSet],
    forms: Sequence[Form] = (Form(),),
    *,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> list[SetResult]:
    """Scores every model in every form on every set.

    Args:
        models: the first is what the others are compared with.
        sets: as ``open_sets`` gives them.
        forms: the first is what a model's other forms are compared with.
        rounds: of the bootstrap and of the test of significance.
        progress: told of sets done; each model reports its own embedding.

    Raises:
        OptionError: a form asks for more dimensions than a model has.
    """
    check_forms(models, forms)
    results = []
    for done, each in enumerate(sets):
        outcomes = [[each.outcome(model, form) for form in forms] for model in models]
        rows = [_row(models, forms, outcomes, m, f, rounds) for m in range(len(models)) for f in range(len(forms))]
        results.append(SetResult(each.name, each.metric, len(outcomes[0][0].values), rows))
        progress("evaluating", done + 1, len(sets))
    return results


def _row(
    models: Sequence[Model], forms: Sequence[Form], outcomes: Sequence[Sequence[Outcome]], m: int, f: int, rounds: int
) -> Row:
    model, form, outcome = models[m], forms[f], outcomes[m][f]
    base = None if m == f == 0 else (0, f if m else 0)
    dimension_count = form.dimension_count or model.dimension_count
    return Row(
        model=model.name,
        dimension_count=dimension_count,
        code=label(form),
        row_bytes=form.code.row_bytes(dimension_count),
        score=outcome.score,
        interval=outcome.interval(rounds),
        against=base and f"{models[0].name}, {form_name(models[0], forms[base[1]])}",
        comparison=base and compare(outcome, outcomes[base[0]][base[1]], rounds),
    )


def label(form: Form) -> str:
    """How vectors are kept, in words of a table."""
    return f"{form.code}, centred" if form.centred else str(form.code)


def form_name(model: Model, form: Form) -> str:
    """A form in words: dimensions and how they are kept."""
    return f"{form.dimension_count or model.dimension_count} {label(form)}"
