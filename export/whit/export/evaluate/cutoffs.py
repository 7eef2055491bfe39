"""At which cosine two texts count as the same: cut-offs for a package, from pairs that are known to match or not.

Cosines of different models are not on one scale, and a cut-off copied from another model is wrong. The pairs decide: the best
F1, or the most matches at a precision that must be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.evaluate.data import EvaluationError, Sts
from whit.export.evaluate.metrics import cosines
from whit.export.evaluate.model import Model
from whit.export.evaluate.outcome import Interval, statistic_interval

_ROUNDS = 300


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Pairs with a cosine of at least ``cosine`` are called matches.

    Attributes:
        cosine: half-way between the lowest pair taken and the highest left out.
        interval: of ``cosine``, by bootstrap over the pairs: how far another sample of such pairs would move it.
        precision: share of the pairs taken that match, 0..1.
        recall: share of the matches that are taken, 0..1.
    """

    cosine: float
    interval: Interval
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / (self.precision + self.recall)


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """A package's cut-offs on some pairs; ``at_precision`` is None where no cut-off reaches the precision asked for."""

    pair_count: int
    match_count: int
    best_f1: Cutoff
    at_precision: Cutoff | None


def matches(pairs: Sts, match_from: float | None, name: str) -> NDArray[np.bool_]:
    """Which pairs match: those with a score of ``match_from`` or more; None: scores are 0 and 1.

    Raises:
        EvaluationError: ``match_from`` is needed, or leaves no pair on one side.
    """
    if match_from is None:
        if not np.isin(pairs.scores, (0, 1)).all():
            raise EvaluationError(
                f"{name} has scores other than 0 and 1; say from which score on a pair matches (--match-from)"
            )
        match_from = 1
    found = pairs.scores >= match_from
    if found.all() or not found.any():
        raise EvaluationError(
            f"{name} has {'only' if found.all() else 'no'} pairs that match (score {match_from:g} or more); both kinds are needed"
        )
    return found


def find_cutoffs(model: Model, pairs: Sts, match: NDArray[np.bool_], precision: float) -> Cutoffs:
    """A model's cut-offs: at the best F1, and with the highest recall at ``precision`` (0..1) or better."""
    similarity = cosines(model.embed(pairs.first), model.embed(pairs.second))
    best = _cutoff(similarity, match, None)
    assert best is not None  # some pair matches, so taking all pairs has an F1
    return Cutoffs(len(match), int(match.sum()), best, _cutoff(similarity, match, precision))


def _cutoff(similarity: NDArray[np.float64], match: NDArray[np.bool_], precision: float | None) -> Cutoff | None:
    found = _cut(similarity, match, precision)
    if found is None:
        return None

    def cosine(sample: NDArray[np.intp]) -> float:
        again = _cut(similarity[sample], match[sample], precision)
        return again[0] if again else np.nan

    return Cutoff(found[0], statistic_interval(cosine, len(match), _ROUNDS), found[1], found[2])


def _cut(
    similarity: NDArray[np.float64], match: NDArray[np.bool_], precision: float | None
) -> tuple[float, float, float] | None:
    """Cosine, precision and recall of the best cut; pairs with equal cosines are never parted."""
    order = np.argsort(-similarity, kind="stable")
    ordered = similarity[order]
    hits = np.cumsum(match[order])
    if not hits[-1]:
        return None
    is_cut = np.append(ordered[:-1] > ordered[1:], True)
    precisions, recalls = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    if precision is None:
        worth = np.where(is_cut, 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1]), -1.0)
    else:
        worth = np.where(is_cut & (precisions >= precision), recalls, -1.0)
    place = int(np.argmax(worth))
    if worth[place] < 0:
        return None
    lower = ordered[place + 1] if place + 1 < len(ordered) else ordered[place]
    return float((ordered[place] + lower) / 2), float(precisions[place]), float(recalls[place])
