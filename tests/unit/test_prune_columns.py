"""Choosing columns and making up for the others: the algebra, on small matrices with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from whit.export.prune.columns import RANKINGS, Moments, by_interpolation, by_magnitude, by_obs, refit

random = np.random.default_rng(3)


def activations(n: int = 400, k: int = 12, rank: int = 6) -> np.ndarray:
    """Columns of which the last ``k - rank`` are mixtures of the first ones."""
    base = random.normal(size=(n, rank))
    return np.hstack([base, base @ random.normal(size=(rank, k - rank))]).astype(np.float32) + 0.5


def test_kept_columns_make_up_for_mixtures_of_them() -> None:
    a, weight = activations(), random.normal(size=(12, 5)).astype(np.float32)
    y = a @ weight

    fitted, error = refit(Moments.of(a, y), weight, np.arange(6))

    assert error < 0.1
    plain = a[:, :6] @ weight[:6]
    assert np.square(a[:, :6] @ fitted.weight + fitted.bias - y).mean() < 0.1 * np.square(plain - y).mean()


def test_all_columns_kept_change_nothing() -> None:
    a, weight = activations(rank=12), random.normal(size=(12, 5)).astype(np.float32)

    fitted, error = refit(Moments.of(a, a @ weight + 1), weight, np.arange(12))

    np.testing.assert_allclose(fitted.weight, weight, atol=1e-4)
    np.testing.assert_allclose(fitted.bias, 1, atol=1e-4)
    assert error < 1e-6


def test_no_column_leaves_the_mean() -> None:
    a, weight = activations(), random.normal(size=(12, 5)).astype(np.float32)
    y = a @ weight

    fitted, error = refit(Moments.of(a, y), weight, np.arange(0))

    assert fitted.weight.shape == (0, 5)
    np.testing.assert_allclose(fitted.bias, y.mean(axis=0), atol=1e-5)
    assert error == pytest.approx(1)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("method", RANKINGS)
def test_every_group_is_ranked_once(method: str, width: int) -> None:
    a, weight = activations(), random.normal(size=(12, 5)).astype(np.float32)

    order = RANKINGS[method](Moments.of(a, a @ weight), weight.T, weight, width)

    assert sorted(order.tolist()) == list(range(12 // width))


@pytest.mark.parametrize("method", ["stat", "obs"])
def test_copies_are_spared_where_magnitude_keeps_them(method: str) -> None:
    base = random.normal(size=(400, 3)).astype(np.float32)
    a = np.hstack([base, base])  # columns 3, 4, 5 say what 0, 1, 2 say
    weight = np.ones((6, 4), np.float32)
    weight[[2, 5]] /= 2
    moments = Moments.of(a, a @ weight)

    kept = RANKINGS[method](moments, weight.T, weight, 3)[:1] * 3 + np.arange(3)
    largest = np.sort(by_magnitude(moments, weight.T, weight, 1)[:3])

    assert refit(moments, weight, kept)[1] < 0.01
    assert refit(moments, weight, largest)[1] > 10 * refit(moments, weight, kept)[1]


def test_interpolation_takes_the_column_that_is_explained_least() -> None:
    a = np.diag([1.0, 3.0, 2.0]).astype(np.float32)[random.integers(3, size=600)]
    weight = np.ones((3, 2), np.float32)

    assert by_interpolation(Moments.of(a, a @ weight), weight.T, weight, 1).tolist() == [1, 2, 0]


def test_obs_spares_what_is_not_used() -> None:
    a, weight = activations(rank=12), random.normal(size=(12, 5)).astype(np.float32)
    weight[[4, 7]] = 0

    order = by_obs(Moments.of(a, a @ weight), weight.T, weight, 1)

    assert set(order[-2:].tolist()) == {4, 7}
