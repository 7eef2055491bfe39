"""What the student is asked for. Every loss is a mean over the batch, so that weights mean the same at any batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.05  # of cosines, in every softmax: that of SimCSE (arXiv:2104.08821)


@dataclass(frozen=True, slots=True)
class Scores:
    """How alike a teacher finds the pairs of B texts, on the scale of cosines.

    Attributes:
        values: float32 [B, B]; row i are the pairs of text i.
        known: bool [B, B], False on the diagonal and for pairs without a score.
    """

    values: Tensor
    known: Tensor

    @classmethod
    def of_vectors(cls, teacher: Tensor) -> Scores:
        """The cosines between all texts, of the teacher's vectors [B, d]."""
        return cls(cosine_matrix(teacher), ~_diagonal(teacher))


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each text's two vectors [B, d] (HPD, arXiv:2203.07687; LEAF, arXiv:2509.12539: on unit vectors the
    squared distance is twice this).
    """  # noqa: D205
    return (1 - functional.cosine_similarity(student, teacher)).mean()


def l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of each text's two vectors [B, d]: where lengths matter, too."""
    return (student - teacher).square().sum(dim=1).mean()


def passage_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """By how much other texts of the batch are nearer to a text than its student's vector is, all by vectors [B, d].

    The passage-centric relation of PAIR (arXiv:2108.06027): a passage is to be nearer to its query than to other passages.
    Here the student's vector stands for the query and the teacher's for the passages, so no labels are needed, and a text
    counts for more the nearer others come to it. A smooth maximum over these; 0 for a single text.
    """
    if len(student) < 2:
        return student.sum() * 0
    ours, theirs = (functional.normalize(v, dim=1) for v in (student, teacher))
    others = (theirs @ theirs.T).masked_fill(_diagonal(theirs), -torch.inf)
    neighbour = TEMPERATURE * torch.logsumexp(others / TEMPERATURE, dim=1)
    own = (ours * theirs).sum(dim=1)
    return (TEMPERATURE * functional.softplus((neighbour - own) / TEMPERATURE)).mean()


def similarity_loss(student: Tensor, scores: Scores, kind: str = "squared") -> Tensor:
    """How far the cosines between the texts of a batch (vectors [B, d]) are from the scores that a teacher gives the pairs.

    Near the goal all kinds are mean squared differences, of the same size, so that a weight means the same:

    * ``squared``: of cosine and score (Jasper and Stella, arXiv:2412.19048).
    * ``margin``: of cosine and score, less what is the same for all pairs of a text: how much more alike one pair is than
      another (MarginMSE, arXiv:2010.02666). Whatever a text is, query or passage, it is compared with both (PAIR).
    * ``kl``: Kullback-Leibler divergence of the softmax over a text's pairs, teacher's to student's, times twice the squared
      temperature (TCT-ColBERT, arXiv:2010.11386): what is near a text counts most.

    0 where no text has a pair, or only one where these are compared with each other.
    """
    known = scores.known
    counts = known.sum(dim=1)
    rows = counts >= (1 if kind == "squared" else 2)
    if not rows.any():
        return student.sum() * 0
    cosines, wanted, known, counts = cosine_matrix(student)[rows], scores.values[rows], known[rows], counts[rows]
    if kind == "kl":
        ours, theirs = (
            torch.log_softmax((v / TEMPERATURE).masked_fill(~known, -torch.inf), dim=1).masked_fill(~known, 0.0)
            for v in (cosines, wanted)
        )
        divergence = (theirs.exp() * known * (theirs - ours)).sum(dim=1)
        return 2 * TEMPERATURE**2 * divergence.mean()
    difference = (cosines - wanted).masked_fill(~known, 0.0)
    if kind == "margin":  # over ordered pairs of pairs this is twice the variance; the half of it is like "squared"
        mean = difference.sum(dim=1, keepdim=True) / counts[:, None]
        difference = (difference - mean).masked_fill(~known, 0.0)
    return difference.square().sum() / counts.sum()


def cosine_matrix(vectors: Tensor) -> Tensor:
    """Cosines between all rows [B, d]: float32 [B, B], whatever precision training runs in."""
    with torch.autocast(vectors.device.type, enabled=False):
        units = functional.normalize(vectors, dim=1)
        return units @ units.T


def maxsim(tokens: Tensor, mask: Tensor) -> Tensor:
    """MaxSim of all pairs of B texts: [B, B], 1 for equal ones.

    Each token's cosine to the most similar token of the other text, averaged over tokens and both directions: ColBERT's
    operator (arXiv:2004.12832) made symmetric as a cosine is, and independent of the number of tokens.

    Args:
        tokens: token vectors [B, S, h].
        mask: [B, S], 1 for tokens that count; at least one in each text.
    """
    units = functional.normalize(tokens, dim=2)
    absent = mask == 0
    best = [  # one text at a time: all at once would be B x B x S x S numbers
        (mask[i] @ torch.einsum("sh,bth->sbt", units[i], units).masked_fill(absent, -torch.inf).amax(dim=2))
        for i in range(len(units))
    ]
    scores = torch.stack(best) / mask.sum(dim=1, keepdim=True)
    return (scores + scores.T) / 2


def prefix_loss(student: Tensor, scores: Scores, dimension_counts: Sequence[int], kind: str = "squared") -> Tensor:
    """``similarity_loss`` of prefixes of the student's vectors, averaged.

    Matryoshka (arXiv:2205.13147) for a teacher that need not be one: a prefix has to order texts as the teacher does.
    """
    losses = [similarity_loss(student[:, :count], scores, kind) for count in dimension_counts]
    return torch.stack(losses).mean()


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of hidden states [B, S, h] over the texts' own tokens; ``mask`` [B, S] is 1 there."""
    difference = (student.float() - teacher.float()).square().mean(dim=2)
    return (difference * mask).sum() / mask.sum()


def _diagonal(rows: Tensor) -> Tensor:
    return torch.eye(len(rows), dtype=torch.bool, device=rows.device)
