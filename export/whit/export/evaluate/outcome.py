"""How sure a figure is: bootstrap intervals, and paired comparison of two models over the same items.

Resampling is seeded, so the same vectors give the same interval; the items resampled are sentence pairs, queries or texts
(B. Efron, "Bootstrap methods", 1979; M. Smucker et al., "A comparison of statistical significance tests for information
retrieval evaluation", 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.evaluate.metrics import correlation, ranks, ranks_of_ranks

ROUNDS = 1000
SEED = 20250101
_LEVEL = 95  # per cent of the resampled scores that an interval holds

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model made of each item of a set; its score is a mean or a rank correlation, x 100.

    Attributes:
        values: float64 [items]: what the item scored by itself, or the rank of the model's similarity.
        truth: float64 [items], the rank of the human score; None where the set's score is the mean of ``values``.
    """

    values: Values
    truth: Values | None = None

    @classmethod
    def correlation(cls, similarities: Values, truth: Values) -> Outcome:
        """Of a set scored by Spearman's correlation. Kept as ranks: two models' ranks are on one scale, cosines are not."""
        return cls(ranks(similarities), ranks(truth))

    @property
    def score(self) -> float:
        """The set's score, x 100."""
        return self._score(self.values)

    def interval(self, rounds: int = ROUNDS) -> Interval:
        """The bootstrap interval of the score (percentiles)."""
        return _percentiles(self._resampled(rounds, SEED))

    def _score(self, values: Values, items: NDArray[np.intp] | None = None) -> float:
        chosen = values if items is None else values[items]
        if self.truth is None:
            return 100 * float(chosen.mean())
        truth = self.truth if items is None else self.truth[items]
        return 100 * correlation(ranks_of_ranks(chosen), ranks_of_ranks(truth))

    def _resampled(self, rounds: int, seed: int) -> Values:
        random, count = np.random.default_rng(seed), len(self.values)
        return np.array([self._score(self.values, random.integers(0, count, count)) for _ in range(rounds)])


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model against a base on one set.

    Attributes:
        difference: score minus the base's.
        interval: of the difference, by paired bootstrap.
        p: probability of a difference at least so large if the two were alike, two-sided, by paired randomisation.
    """

    difference: float
    interval: Interval
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is unlikely (p < 0.05) to be chance in the choice of items."""
        return self.p < 0.05


def compare(outcome: Outcome, base: Outcome, rounds: int = ROUNDS, seed: int = SEED) -> Comparison:
    """Compares two models' outcomes on the same items.

    Raises:
        ValueError: the outcomes are not of one set.
    """
    if outcome.values.shape != base.values.shape or (outcome.truth is None) != (base.truth is None):
        raise ValueError(f"the outcomes are of different sets: {len(outcome.values)} and {len(base.values)} items")
    difference = outcome.score - base.score
    # The same seed draws the same items for both, which is what makes the bootstrap a paired one.
    resampled = outcome._resampled(rounds, seed) - base._resampled(rounds, seed)
    return Comparison(difference, _percentiles(resampled), _randomisation(outcome, base, difference, rounds, seed))


def retained(outcome: Outcome, base: Outcome) -> tuple[float, Interval]:
    """Score as a percentage of the base's, and its interval by paired bootstrap."""
    resampled = 100 * outcome._resampled(ROUNDS, SEED) / base._resampled(ROUNDS, SEED)
    return 100 * outcome.score / base.score, _percentiles(resampled)


def _randomisation(outcome: Outcome, base: Outcome, difference: float, rounds: int, seed: int) -> float:
    """How often swapping the two models item by item, at random, makes a difference as large as the one seen."""
    random = np.random.default_rng(seed + 1)
    as_large = 0
    for _ in range(rounds):
        swap = random.random(len(outcome.values)) < 0.5
        ours, theirs = (np.where(swap, a.values, b.values) for a, b in ((base, outcome), (outcome, base)))
        # A hair of slack: sums in another order must not make an equal difference a smaller one.
        as_large += abs(outcome._score(ours) - outcome._score(theirs)) >= abs(difference) - 1e-9
    return (as_large + 1) / (rounds + 1)


def statistic_interval(statistic: Callable[[NDArray[np.intp]], float], count: int, rounds: int) -> Interval:
    """The bootstrap interval of any figure that is computed from the items whose indices it is given."""
    random = np.random.default_rng(SEED)
    return _percentiles(np.array([statistic(random.integers(0, count, count)) for _ in range(rounds)]))


def _percentiles(values: Values) -> Interval:
    tail = (100 - _LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
