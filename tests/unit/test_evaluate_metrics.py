"""Metrics against cases worked by hand, and intervals and tests of significance against what they must show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whit.export.evaluate.cutoffs import _cut, matches
from whit.export.evaluate.data import EvaluationError, Sts
from whit.export.evaluate.metrics import ndcg_by_query, ranking, ranks, ranks_of_ranks, recall_by_query, spearman
from whit.export.evaluate.outcome import Outcome, compare, retained

ROUNDS = 200  # enough for these


def test_spearman_shares_ranks_among_equals() -> None:
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_spearman_of_a_constant_is_nought() -> None:
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0


def test_ranks_of_a_sample_of_ranks_are_its_ranks() -> None:
    random = np.random.default_rng(0)
    sample = ranks(random.integers(0, 20, 50).astype(np.float64))[random.integers(0, 50, 50)]

    assert np.array_equal(ranks_of_ranks(sample), ranks(sample))


def test_ndcg_by_hand() -> None:
    # Gains 3 and 1 at ranks 1 and 3; the ideal has them at 1 and 2, with a third of gain 1 that was not found.
    best = np.array([[5, 0, 7, *range(10, 17)]])
    found = 3 + 1 / math.log2(4)
    ideal = 3 + 1 / math.log2(3) + 1 / math.log2(4)

    assert ndcg_by_query(best, {0: {5: 3.0, 7: 1.0, 99: 1.0}}) == pytest.approx([found / ideal])


def test_recall_by_hand() -> None:
    assert recall_by_query(np.array([[1, 2], [3, 4]]), {0: {2: 1.0, 9: 1.0}, 1: {3: 1.0}}).tolist() == [0.5, 1]


def test_ranking_keeps_equal_documents_in_order_and_survives_a_small_corpus() -> None:
    documents = np.array([[0, 1], [1, 0], [1, 0]], np.float32)

    assert ranking(documents, np.array([[1, 0], [0, 1]], np.float32), 10).tolist() == [[1, 2, 0], [0, 1, 2]]


def correlated(noise: float, seed: int = 1, count: int = 300) -> Outcome:
    truth = np.random.default_rng(0).random(count)
    return Outcome.correlation(truth + noise * np.random.default_rng(seed).standard_normal(count), truth)


def test_interval_holds_the_score_is_seeded_and_shrinks_with_more_items() -> None:
    few, many = correlated(0.3, count=50), correlated(0.3, count=1000)
    narrow, wide = many.interval(ROUNDS), few.interval(ROUNDS)

    assert narrow.low < many.score < narrow.high
    assert many.interval(ROUNDS) == narrow
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).random(400)
    found = Outcome(values).interval()
    error = 100 * values.std() / math.sqrt(len(values))

    assert found.low == pytest.approx(100 * values.mean() - 1.96 * error, abs=0.3)
    assert found.high == pytest.approx(100 * values.mean() + 1.96 * error, abs=0.3)


@pytest.mark.parametrize("kind", ["correlation", "mean"])
def test_a_real_difference_is_significant_and_none_is_not(kind: str) -> None:
    if kind == "correlation":
        base, better, alike = correlated(0.5), correlated(0.2), correlated(0.5, seed=2)
    else:
        random = np.random.default_rng(0)
        values = random.random(300)
        base, better = Outcome(values), Outcome(values + 0.05 + 0.1 * random.standard_normal(300))
        alike = Outcome(values + 0.1 * np.random.default_rng(2).standard_normal(300))

    found, none = compare(better, base, ROUNDS), compare(alike, base, ROUNDS)

    assert found.significant
    assert found.interval.low > 0
    assert found.difference == pytest.approx(better.score - base.score)
    assert not none.significant
    assert none.interval.low < 0 < none.interval.high


def test_comparison_is_paired() -> None:
    # A hundredth better on every item: unpaired, the spread of the items would drown it.
    values = np.random.default_rng(0).random(100)
    found = compare(Outcome(values + 0.01), Outcome(values))

    assert found.interval.low == pytest.approx(1)
    assert found.p < 0.01


def test_a_model_against_itself() -> None:
    found = compare(correlated(0.3), correlated(0.3), ROUNDS)

    assert (found.difference, found.interval.low, found.interval.high, found.p) == (0, 0, 0, 1)


def test_outcomes_of_different_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="different sets: 300 and 50 items"):
        compare(correlated(0.3), correlated(0.3, count=50))


def test_retained_is_a_share_of_the_base() -> None:
    values = np.random.default_rng(0).random(100)
    share, interval = retained(Outcome(0.9 * values), Outcome(values))

    assert (share, interval.low, interval.high) == pytest.approx((90, 90, 90))


def test_cutoff_by_hand() -> None:
    similarity = np.array([0.9, 0.8, 0.8, 0.6, 0.2])
    match = np.array([True, True, False, True, False])

    # Down to 0.6: three of four right, all found, F1 6/7; the two at 0.8 cannot be parted.
    assert _cut(similarity, match, None) == pytest.approx((0.4, 0.75, 1))
    assert _cut(similarity, match, 1) == pytest.approx((0.85, 1, 1 / 3))
    assert _cut(similarity, np.array([False, True, True, True, True]), 0.9) is None


def test_matches_need_scores_of_nought_and_one_or_a_bound() -> None:
    pairs = Sts(["a", "b", "c"], ["a", "b", "c"], np.array([0.0, 3, 5]))

    assert matches(pairs, 3, "p").tolist() == [False, True, True]
    with pytest.raises(EvaluationError, match="--match-from"):
        matches(pairs, None, "p")
    with pytest.raises(EvaluationError, match="no pairs that match"):
        matches(pairs, 6, "p")
