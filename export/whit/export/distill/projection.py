"""Where teacher and student differ in width: the teacher's vectors in fewer dimensions."""

from __future__ import annotations

import numpy as np

from whit.export.checkpoint import FloatArray


def principal_directions(vectors: FloatArray, count: int) -> FloatArray:
    """The ``count`` directions in which vectors [n, d] have most of their length, as orthonormal columns [d, count].

    Not centred: dot products between projected vectors are then as near as they can be to those of the whole ones
    (HPD, arXiv:2203.07687, reduces its teacher by PCA).
    """
    _, _, directions = np.linalg.svd(vectors.T.astype(np.float64) @ vectors)
    return np.asarray(directions[:count].T, np.float32)


def nearest_rotation(vectors: FloatArray, targets: FloatArray) -> FloatArray:
    """The orthogonal matrix [d, d] that brings vectors [n, d] nearest to targets [n, d] (orthogonal Procrustes)."""
    left, _, right = np.linalg.svd(vectors.T.astype(np.float64) @ targets)
    return np.asarray(left @ right, np.float32)


def fit_teacher(teacher: FloatArray, student: FloatArray) -> FloatArray:
    """A projection [d, e] for the teacher's vectors [n, d], given the untrained student's [n, e] for the same texts.

    The teacher's main directions, turned towards where the student's vectors are already: cosines between texts do not
    change by the turn, and training need not learn it.
    """
    directions = principal_directions(teacher, student.shape[1])
    return np.asarray(directions @ nearest_rotation(teacher @ directions, student), np.float32)


def project(vectors: FloatArray, projection: FloatArray) -> FloatArray:
    """Projected vectors [n, e], each with the length it had."""
    projected = vectors @ projection
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    scale = np.linalg.norm(vectors, axis=1, keepdims=True) / np.maximum(lengths, 1e-12)
    return np.asarray(projected * scale, np.float32)
