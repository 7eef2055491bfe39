"""Fitting a table: it finds the rows that made the targets, and what no text speaks for follows from the rest."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from whit.export.products import product_quantise
from whit.export.static.fit import FitOptions, _gradient, bags, fit, steady
from whit.export.static.table import best_step, random_turn
from whit.runtime.static import decode_products

RNG = np.random.default_rng(0)


def units(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def texts(count, tokens):
    return [RNG.integers(0, tokens, RNG.integers(2, 8)) for _ in range(count)]


def test_a_bag_holds_each_tokens_share():
    found = bags([np.array([2, 0, 2, 2]), np.array([1])], 4).toarray()

    assert found.tolist() == [[0.25, 0, 0.75, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("similarity_weight", [0.0, 2.0])
def test_rows_are_found_again(similarity_weight):
    """The targets come from a table, weights of tokens included, so there is one to be found."""
    truth = RNG.normal(size=(40, 8)) * RNG.uniform(0.2, 2, (40, 1))
    sequences = texts(3000, 40)
    bag = bags(sequences, 40)
    start = RNG.normal(size=(40, 8)).astype(np.float32) * 0.03
    options = FitOptions(epochs=30, batch_size=256, learning_rate=0.02, similarity_weight=similarity_weight)

    table = fit(bag, units(bag @ truth), start, options)

    held = bags(texts(200, 40), 40)
    cosines = (units(held @ table) * units(held @ truth)).sum(axis=1)
    assert (units(held @ start) * units(held @ truth)).sum(axis=1).mean() < 0.5
    assert cosines.mean() > 0.995


@pytest.mark.parametrize("similarity_weight", [0.0, 3.0])
def test_the_gradient_is_that_of_the_loss(similarity_weight):
    bag, targets = bags(texts(6, 5), 5), units(RNG.normal(size=(6, 3)))
    table = RNG.normal(size=(5, 3))

    def loss(at):
        found = bag @ at
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        error = found @ found.T - targets @ targets.T
        return -(found * targets).sum() / 6 + similarity_weight * np.square(error).sum() / 36

    rows, gradient, _ = _gradient(bag, targets, table, similarity_weight)

    for i, row in enumerate(rows):
        for column in range(3):
            step = np.zeros_like(table)
            step[row, column] = 1e-5
            slope = (loss(table + step) - loss(table - step)) / 2e-5
            assert gradient[i, column] == pytest.approx(slope, abs=1e-4)


def test_a_token_that_no_text_holds_follows_from_its_start():
    turn = RNG.normal(size=(6, 6))
    start = RNG.normal(size=(200, 6)).astype(np.float32)
    counts = np.full(200, 500)
    table = (start @ turn).astype(np.float32)
    counts[:2], table[:2] = (0, 3), 0

    found = steady(table, start, counts)

    assert np.allclose(found[0], start[0] @ turn, atol=0.2)
    assert np.allclose(found[1], start[1] @ turn / 2, atol=0.2)  # seen three times: half way
    assert np.allclose(found[2:], table[2:], atol=0.2)


def test_cutting_off_a_few_values_makes_the_step_finer():
    table = RNG.normal(size=(500, 16)).astype(np.float32)
    table[499, 0] = 50  # in a row that does not matter

    step = best_step(table, np.array([1.0] * 499 + [0.0]))

    assert step < 0.5 * 50 / 127


def test_product_quantisation_keeps_directions_and_beats_fewer_codes():
    table = (RNG.normal(size=(3000, 8)) @ RNG.normal(size=(8, 32))).astype(np.float32) * RNG.uniform(0.1, 3, (3000, 1))
    table = (table @ random_turn(32, 0)).astype(np.float32)

    cosines = []
    for count in (4, 8):
        found = product_quantise(table, count, np.ones(3000), seed=0)
        lengths = (found.lengths / found.lengths.max()).astype(np.float16)
        rows, _ = decode_products(found.codes, found.centroids, lengths)
        cosines.append(float((units(rows + 1e-6) * units(table)).sum(axis=1).mean()))

    assert cosines[0] > 0.8
    assert cosines[1] > cosines[0] + 0.02
