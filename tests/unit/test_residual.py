"""Residual codes: layout worked out by hand, what more bits buy, and that a row's codes are its own."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from whit.contract.residual import ResidualCodes, residual_codes, residual_vectors


def normal(count: int = 40, dims: int = 100) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((count, dims)).astype(np.float32)


def relative_error(x: NDArray[np.float32], bits: int) -> float:
    rest = residual_vectors(residual_codes(x, bits)) - x
    return float((rest**2).sum() / (x**2).sum())


def test_values_that_two_planes_hold_exactly_come_back_exactly() -> None:
    x = np.array([[3, 1, -1, -3, 3, -3, 1, -1, 3]], np.float32)  # +-2 +-1

    codes = residual_codes(x, 2)

    assert np.array_equal(codes.scales, [[2, 1]])
    # 3 1 -1 -3 3 -3 1 -1 | 3: signs of the twos, then of the ones; the second byte holds one dimension
    assert codes.planes.tolist() == [[[0b11001010, 0b10000000], [0b10101001, 0b10000000]]]
    assert np.array_equal(residual_vectors(codes), x)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_value_has_the_nearest_of_its_rows_levels(bits: int) -> None:
    x = normal()
    codes = residual_codes(x, bits)
    choices = np.array(list(itertools.product([-1, 1], repeat=bits)))
    levels = (choices @ codes.scales.T.astype(np.float64)).T  # [rows, 2^bits]

    nearest = np.abs(x[:, :, None] - levels[:, None, :]).min(axis=2)

    np.testing.assert_allclose(np.abs(residual_vectors(codes) - x), nearest, atol=1e-5)


def test_error_is_near_the_best_that_any_scalar_quantiser_reaches_on_a_normal_distribution() -> None:
    # The least mean squared errors of 4, 8 and 16 levels: J. Max, "Quantizing for minimum distortion", 1960.
    x = normal(200, 384)

    errors = [relative_error(x, bits) for bits in (2, 3, 4)]

    assert errors == sorted(errors, reverse=True)
    for error, least in zip(errors, (0.1175, 0.03454, 0.009497), strict=True):
        assert error < 1.65 * least


def test_refitting_beats_taking_signs_of_what_is_left() -> None:
    x = normal()
    rest = x.astype(np.float64)
    for _ in range(3):
        rest = rest - np.abs(rest).mean(axis=1, keepdims=True) * np.where(rest > 0, 1, -1)

    assert relative_error(x, 3) < 0.8 * (rest**2).sum() / (x**2).sum()


def test_a_row_is_coded_by_itself() -> None:
    x = normal(1500, 33)  # more rows than are worked on at once

    together, alone = residual_codes(x, 3), [residual_codes(x[i : i + 1], 3) for i in (0, 1023, 1024, 1499)]

    for i, one in zip((0, 1023, 1024, 1499), alone, strict=True):
        assert together.planes[i].tobytes() == one.planes[0].tobytes()
        assert together.scales[i].tobytes() == one.scales[0].tobytes()


@pytest.mark.parametrize("row", [[0.0] * 9, [2.0] * 9, [-1.0] * 9])
def test_constant_rows_come_back(row: list[float]) -> None:
    x = np.array([row], np.float32)

    np.testing.assert_allclose(residual_vectors(residual_codes(x, 4)), x, atol=1e-6)


def test_no_rows() -> None:
    codes = residual_codes(np.empty((0, 12), np.float32), 2)

    assert residual_vectors(codes).shape == (0, 12)


def test_row_bytes_count_bits_and_scales() -> None:
    assert residual_codes(normal(2, 384), 2).row_bytes == 2 * 48 + 2 * 4


@pytest.mark.parametrize(
    ("x", "bits", "words"),
    [
        (normal(), 1, "binary"),
        (normal(), 5, "bits must be 2 to 4"),
        (normal().astype(np.float64), 2, "float32"),
        (normal()[0], 2, r"\(100,\)"),
    ],
)
def test_refused(x: NDArray[np.float32], bits: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        residual_codes(x, bits)


def test_planes_that_do_not_fit_are_refused() -> None:
    codes = residual_codes(normal(2, 16), 2)
    broken: ResidualCodes = dataclasses.replace(codes, dimension_count=17)

    with pytest.raises(ValueError, match=r"planes must be uint8 \[2, 2, 3\]"):
        residual_vectors(broken)
