"""Which columns a linear layer can spare, and what the others must do to make up for them. Linear algebra on numpy.

A block ends in ``y = a @ weight + bias``, where ``a`` [n, k] is what its columns say (feed-forward neurons, or the
contexts of attention heads, several columns a head). Leaving columns out is then two questions: in which order can they
be spared (``RANKINGS``), and which ``weight`` and ``bias`` for the others give the ``y`` that was (``refit``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray
from whit.export.families import Linear

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

# Added to the diagonal of the activations' covariance, as a share of its mean. Columns that are nearly copies of others
# would otherwise get huge weights of opposite sign. Measured on texts that the fit had not seen (a layer of MiniLM, 7,400
# tokens): fitting wants more of it than choosing does.
FIT_DAMPING = 0.1
RANK_DAMPING = 0.01

# Single columns that are chosen between two updates of what the others explain: one would be exact, a few are as good and
# make matrix products out of many small steps.
_STRIDE = 8


@dataclass(frozen=True, slots=True)
class Moments:
    """What calibration text says about a block: ``a`` as it is now, ``y`` as it was before any pruning."""

    mean: Matrix  # [k]
    covariance: Matrix  # [k, k]
    target_mean: Matrix  # [out]
    cross: Matrix  # [k, out], covariance of a and y
    target_variance: float  # summed over the outputs

    @staticmethod
    def of(a: FloatArray, y: FloatArray) -> Moments:
        """From activations float32 [n, k] and wanted outputs float32 [n, out]."""
        mean, target_mean = a.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
        centred = a - mean.astype(np.float32)
        wanted = y - target_mean.astype(np.float32)
        covariance = (centred.T @ centred).astype(np.float64) / len(a)
        cross = (centred.T @ wanted).astype(np.float64) / len(a)
        return Moments(mean, covariance, target_mean, cross, float(np.square(wanted).sum(dtype=np.float64)) / len(a))

    def damped(self, share: float) -> Matrix:
        """The covariance with ``share`` of its mean variance added to the diagonal."""
        level = share * max(float(np.trace(self.covariance)) / len(self.mean), 1e-12)
        return self.covariance + level * np.eye(len(self.mean))


def refit(moments: Moments, weight: FloatArray, kept: Indices) -> tuple[Linear, float]:
    """The least-squares weight [len(kept), out] and bias for the kept columns, and the error that is left.

    Where ``y`` is ``a @ weight``, this is STAT's ``T`` folded into the weight, and the weight update of OBS. The damping
    pulls towards the ``weight`` that was, so that columns which the calibration text hardly uses stay what they are. The
    error is the share of the variance of ``y`` that the kept columns do not explain.
    """
    covariance, cross = moments.covariance[np.ix_(kept, kept)], moments.cross[kept]
    damped = moments.damped(FIT_DAMPING)[np.ix_(kept, kept)]
    new = weight[kept] + np.linalg.solve(damped, cross - covariance @ weight[kept])
    bias = moments.target_mean - moments.mean[kept] @ new
    residual = moments.target_variance - 2 * float((new * cross).sum()) + float((new * (covariance @ new)).sum())
    error = max(residual, 0.0) / max(moments.target_variance, 1e-30)
    return Linear(new.astype(np.float32), bias.astype(np.float32)), error


Ranking = Callable[[Moments, FloatArray, FloatArray, int], Indices]


def by_magnitude(moments: Moments, weight_in: FloatArray, weight_out: FloatArray, width: int) -> Indices:
    """Groups of ``width`` columns by the norm of their weights in and out, the largest first; looks at no text."""
    del moments
    sizes = np.square(weight_out).sum(axis=1) + np.square(weight_in).sum(axis=0)
    return np.argsort(-sizes.reshape(-1, width).sum(axis=1), kind="stable")


def by_interpolation(moments: Moments, weight_in: FloatArray, weight_out: FloatArray, width: int) -> Indices:
    """Groups by interpolative decomposition (STAT): each next group is the one that those before explain the least.

    Pivoted QR of the activations, done as pivoted Cholesky of their covariance; each column counts as much as its weight.
    """
    del weight_in
    importance = np.linalg.norm(weight_out, axis=1).astype(np.float64)
    whole = moments.covariance * np.outer(importance, importance)
    left = np.diag(whole).copy()  # of each column, what the chosen ones do not explain
    floor = 1e-10 * max(float(left.mean()), 1e-30)
    factor = np.zeros((len(whole), len(whole)))  # Cholesky factor, one group of columns after the other
    groups = np.arange(len(whole)).reshape(-1, width)
    waiting = np.arange(len(groups))
    order: list[int] = []
    while len(waiting):
        unexplained = left.reshape(-1, width).sum(axis=1)[waiting]
        chosen = waiting[np.argsort(-unexplained, kind="stable")[: _STRIDE if width == 1 else 1]]
        columns, done = groups[chosen].ravel(), len(order) * width
        block = whole[:, columns] - factor[:, :done] @ factor[columns, :done].T
        root = np.linalg.cholesky(_positive(block[columns], floor))
        factor[:, done : done + len(columns)] = np.linalg.solve(root, block.T).T
        left -= np.square(factor[:, done : done + len(columns)]).sum(axis=1)
        order += chosen.tolist()
        waiting = np.setdiff1d(waiting, chosen)
    return np.array(order)


def by_obs(moments: Moments, weight_in: FloatArray, weight_out: FloatArray, width: int) -> Indices:
    """Groups by optimal brain surgeon: spares again and again the group whose loss the others make up for best.

    The cost of a group is ``tr(w' (H^-1)^-1 w)`` over its own rows of the inverse covariance and of the weight as
    updated so far (ZipLM, arXiv:2302.04089; LLM Surgeon, arXiv:2312.17244). Returned in reverse: most needed first.
    """
    del weight_in
    inverse = np.linalg.inv(moments.damped(RANK_DAMPING)).astype(np.float64)
    weight = weight_out.astype(np.float64)
    alive = np.arange(len(weight) // width)
    spared: list[int] = []
    while len(alive):
        blocks = _diagonal_blocks(inverse, width)  # [groups, width, width]
        rows = weight.reshape(len(alive), width, -1)
        costs = np.einsum("gio,gij,gjo->g", rows, np.linalg.inv(blocks), rows, optimize=True)
        stride = min(_STRIDE if width == 1 else 1, len(alive))
        out = np.argsort(costs, kind="stable")[:stride]
        spared += alive[out].tolist()
        gone = (out[:, None] * width + np.arange(width)).ravel()
        stay = np.setdiff1d(np.arange(len(weight)), gone)
        solved = np.linalg.solve(inverse[np.ix_(gone, gone)], np.hstack([weight[gone], inverse[np.ix_(gone, stay)]]))
        outputs = weight.shape[1]
        weight = weight[stay] - inverse[np.ix_(stay, gone)] @ solved[:, :outputs]
        inverse = inverse[np.ix_(stay, stay)] - inverse[np.ix_(stay, gone)] @ solved[:, outputs:]
        alive = np.delete(alive, out)
    return np.array(spared[::-1])


RANKINGS: Mapping[str, Ranking] = {"magnitude": by_magnitude, "stat": by_interpolation, "obs": by_obs}


def _positive(block: Matrix, floor: float) -> Matrix:
    """A covariance that has lost its last digits, made positive definite again."""
    values, vectors = np.linalg.eigh((block + block.T) / 2)
    made: Matrix = (vectors * np.maximum(values, floor)) @ vectors.T
    return made


def _diagonal_blocks(matrix: Matrix, width: int) -> Matrix:
    count = len(matrix) // width
    at = np.arange(count)
    blocks: Matrix = matrix.reshape(count, width, count, width)[at, :, at, :]
    return blocks
