"""Classification by a probe: multinomial logistic regression on fixed vectors, in numpy.

What a linear layer can read out of a vector is what the vector says plainly (G. Alain, Y. Bengio, "Understanding intermediate
layers using linear classifier probes", arXiv:1610.01644).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whit.export.evaluate.metrics import FloatMatrix

FOLDS = 5
_SEED = 20250101
# Of the mean loss, for vectors of length 1: about scikit-learn's default C=1 on a few hundred texts, and no weaker on more.
_PENALTY = 1e-3
_STEPS = 400
_SETTLED = 1e-4  # gradient length at which more steps change no prediction


def out_of_fold_hits(vectors: FloatMatrix, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each text is given its label by a probe fitted to the other folds.

    Args:
        vectors: float32 [texts, dims], rows of length 1.
        labels: one a text. Each label's texts are spread evenly over the folds, by a seeded shuffle; a label with one text only
            is always a miss.
    """
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    folds = _spread(classes)
    hits = np.zeros(len(classes), np.bool_)
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            weights = fit(vectors[~held], classes[~held], classes.max() + 1)
            hits[held] = predict(vectors[held], weights) == classes[held]
    return hits


def fit(vectors: FloatMatrix, classes: NDArray[np.intp], class_count: int) -> NDArray[np.float64]:
    """Weights float64 [dims + 1, classes], the last row being the bias, of the penalised maximum likelihood.

    Accelerated gradient steps (Y. Nesterov, 1983) at the inverse of the curvature's bound: nothing to tune.
    """
    x = _with_bias(vectors)
    truth = np.eye(class_count)[classes]
    curvature = 0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + _PENALTY
    weights = np.zeros((x.shape[1], class_count))
    ahead, momentum = weights, 1.0
    for _ in range(_STEPS):
        gradient = x.T @ (_softmax(x @ ahead) - truth) / len(x) + _PENALTY * ahead
        if np.linalg.norm(gradient) < _SETTLED:
            break
        stepped = ahead - gradient / curvature
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / faster * (stepped - weights)
        weights, momentum = stepped, faster
    return weights


def predict(vectors: FloatMatrix, weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """The most likely class of each vector."""
    found: NDArray[np.intp] = np.argmax(_with_bias(vectors) @ weights, axis=1)
    return found


def _spread(classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """A fold for each text, each class dealt out in turn from a shuffled pack."""
    order = np.random.default_rng(_SEED).permutation(len(classes))
    dealt = order[np.argsort(classes[order], kind="stable")]
    folds = np.empty(len(classes), np.intp)
    folds[dealt] = np.arange(len(classes)) % FOLDS
    return folds


def _with_bias(vectors: FloatMatrix) -> NDArray[np.float64]:
    return np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
