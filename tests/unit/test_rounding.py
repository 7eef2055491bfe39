"""Weights as int8 codes: no pair overflows, and rounding against the inputs' covariance keeps the output closer."""

import numpy as np
import pytest

from whit.export.rounding import PAIR_LIMIT, compensated_codes, nearest_codes


def layer(rows: int, columns: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Weights [rows, columns], some pairs over the limit, and inputs [2000, rows] that go together, as real ones do."""
    random = np.random.default_rng(rows)
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    weight[: rows // 4] = 2.5
    mix = random.standard_normal((rows, rows)) * np.linspace(1, 0.05, rows)
    return weight, (random.standard_normal((2000, rows)) @ mix).astype(np.float32)


@pytest.mark.parametrize("rows", [2, 7, 64, 131, 300])
def test_neither_way_of_rounding_lets_a_pair_overflow(rows: int) -> None:
    weight, x = layer(rows)
    nearest, scales = nearest_codes(weight)

    for codes in (nearest, compensated_codes(weight, scales, np.cov(x.T))):
        even = np.concatenate([codes, np.zeros((rows % 2, codes.shape[1]))]).reshape(-1, 2, codes.shape[1])
        assert np.array_equal(codes, np.rint(codes))
        assert np.abs(codes).max() <= 127
        assert even.clip(min=0).sum(axis=1).max() <= PAIR_LIMIT
        assert even.clip(max=0).sum(axis=1).min() >= -PAIR_LIMIT


@pytest.mark.parametrize("rows", [63, 300])
def test_compensation_takes_a_third_off_the_error_of_the_output(rows: int) -> None:
    weight, x = layer(rows)
    codes, scales = nearest_codes(weight)

    errors = [
        float(np.square(x @ (each * scales - weight)).mean())
        for each in (codes, compensated_codes(weight, scales, np.cov(x.T)))
    ]

    assert errors[1] <= 0.67 * errors[0]


def test_inputs_that_do_not_go_together_leave_each_weight_at_its_nearest_code() -> None:
    weight = np.random.default_rng(1).uniform(-1, 1, (10, 6)).astype(np.float32)
    weight[::2] = np.abs(weight[::2])
    weight[1::2] = -np.abs(weight[1::2])  # opposite signs: no pair is near the limit
    codes, scales = nearest_codes(weight)

    assert np.array_equal(compensated_codes(weight, scales, np.eye(10)), codes)


def test_a_covariance_with_an_eigenvalue_below_zero_is_of_use_all_the_same() -> None:
    weight, x = layer(64)
    codes, scales = nearest_codes(weight)
    moment = np.cov(x.T)
    values, vectors = np.linalg.eigh(moment)
    moment -= (values[0] + 0.05 * values[-1]) * np.outer(vectors[:, 0], vectors[:, 0])  # as sums in float32 leave it
    assert np.linalg.eigvalsh(moment + 0.01 * moment.diagonal().mean() * np.eye(64))[0] < 0

    found = compensated_codes(weight, scales, moment)

    errors = [float(np.square(x @ (each * scales - weight)).mean()) for each in (codes, found)]
    assert errors[1] < errors[0]
