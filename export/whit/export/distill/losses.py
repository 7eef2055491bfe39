"""What the student is asked for. Every loss is a mean over the batch, so that weights mean the same at any batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each text's two vectors [B, d] (HPD, arXiv:2203.07687; LEAF, arXiv:2509.12539: on unit vectors the
    squared distance is twice this).
    """  # noqa: D205
    return (1 - functional.cosine_similarity(student, teacher)).mean()


def l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of each text's two vectors [B, d]: where lengths matter, too."""
    return (student - teacher).square().sum(dim=1).mean()


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of texts in the batch (Jasper and Stella, arXiv:2412.19048).

    The widths may differ: [B, d] and [B, e]. 0 for a single text.
    """
    count = len(student)
    if count < 2:
        return student.sum() * 0
    ours, theirs = (functional.normalize(v, dim=1) for v in (student, teacher))
    difference = ours @ ours.T - theirs @ theirs.T  # zero on the diagonal
    return difference.square().sum() / (count * (count - 1))


def prefix_loss(student: Tensor, teacher: Tensor, dimension_counts: Sequence[int]) -> Tensor:
    """``similarity_loss`` of prefixes of the student's vectors against the teacher's whole ones, averaged.

    Matryoshka (arXiv:2205.13147) for a teacher that need not be one: a prefix has to order texts as the teacher does.
    """
    losses = [similarity_loss(student[:, :count], teacher) for count in dimension_counts]
    return torch.stack(losses).mean()


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of hidden states [B, S, h] over the texts' own tokens; ``mask`` [B, S] is 1 there."""
    difference = (student.float() - teacher.float()).square().mean(dim=2)
    return (difference * mask).sum() / mask.sum()
