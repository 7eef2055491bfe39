"""Checkpoint soup: the mean of several checkpoints' weights, one model that is no slower than any of them.

Runs that began at the same weights end in one valley of the loss, and the middle of a valley lies lower than its slopes:
model soups (Wortsman et al., arXiv:2203.05482), which KaLM-Embedding-V2 (arXiv:2506.20923) takes for its last training stage.
Models that began apart have no such middle: their soup is worse than any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import INCIDENTAL_FIELDS, Checkpoint, FloatArray, read_checkpoint
from whit.export.cosines import unit_rows
from whit.export.derive import check_out, derive_checkpoint
from whit.export.embed import embed
from whit.export.encoder_graph import Head
from whit.export.errors import CheckpointError, OptionError
from whit.export.evaluate import Sts, read_sts, sts_score
from whit.export.families import encoder_weights
from whit.export.prune.subject import Subject

Progress = Callable[[str, int, int], None]
Shares = NDArray[np.float64]  # [checkpoints], adding up to 1


@dataclass(frozen=True, slots=True)
class SoupOptions:
    """What goes into the soup beside the source.

    ``weights`` are the shares, the source's first, made to add up to 1; empty: equal ones. With ``sts_dev`` the soup is
    *greedy*: the best on these pairs first, each other one, best first, only if the soup does not get worse by it.
    """

    others: tuple[Path, ...]  # checkpoint folders of the same shape and tokenizer, trained from the same start
    weights: tuple[float, ...] = ()
    sts_dev: Path | None = None

    def check(self) -> None:
        """Raises OptionError for the first option that is out of range."""
        if not self.others:
            raise CheckpointError("a soup needs at least 2 checkpoints, got 1; give more runs from the same start")
        if not self.weights:
            return
        if self.sts_dev is not None:
            raise OptionError("weights", "and sts_dev exclude each other: a greedy soup finds its weights; give one")
        if len(self.weights) != len(self.others) + 1:
            raise OptionError(
                "weights", f"must be {len(self.others) + 1} numbers, one for each checkpoint, got {len(self.weights)}"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights) or not sum(self.weights):
            raise OptionError("weights", f"must be 0 or more and not all 0, got {', '.join(map(str, self.weights))}")


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One checkpoint: its share of the soup, and its own score (Spearman x 100 on ``sts_dev``)."""

    checkpoint: str
    weight: float
    sts: float | None = None


@dataclass(frozen=True, slots=True)
class SoupReport:
    """Outcome of a soup."""

    out: str
    ingredients: Sequence[Ingredient]
    sts: float | None = None  # the soup's score


def soup(source: Path, out: Path, options: SoupOptions, progress: Progress = lambda *_: None) -> SoupReport:
    """Writes the weighted mean of the checkpoint ``source`` and ``options.others`` to ``out``.

    All but the encoder's weights is the source's. The rounding of ``whit distill --qat`` belongs to one set of weights and
    is left out: average first, then train with ``qat``.

    Raises:
        CheckpointError: an option is out of range, a checkpoint cannot be read or is not of the source's shape, or ``out``
            cannot be written.
        EvaluationError: ``sts_dev`` cannot be used.
    """
    options.check()
    check_out(out, source)
    folders = [source, *options.others]
    checkpoints = [read_checkpoint(folder) for folder in folders]
    encoder_weights(checkpoints[0])  # what cannot be compiled is refused now
    for folder, checkpoint in zip(folders[1:], checkpoints[1:], strict=True):
        _refuse_difference(source, checkpoints[0], folder, checkpoint)
    scores: Sequence[float | None] = [None] * len(folders)
    score = None
    if options.sts_dev is None:
        shares = np.array(options.weights or [1.0] * len(folders), np.float64)
    else:
        shares, scores, score = _greedy(source, checkpoints, read_sts(options.sts_dev), progress)
    shares = shares / shares.sum()
    found = [
        Ingredient(str(folder), round(float(share), 6), own)
        for folder, share, own in zip(folders, shares, scores, strict=True)
    ]
    step = {
        "step": "soup",
        "ingredients": [
            {"sha256": checkpoint.sha256, "weight": ingredient.weight}
            for checkpoint, ingredient in zip(checkpoints, found, strict=True)
        ],
    }
    derive_checkpoint(source, out, tensors=_averaged(checkpoints, shares).tensors, step=step)
    return SoupReport(str(out), found, score)


def _averaged(checkpoints: Sequence[Checkpoint], shares: Shares) -> Checkpoint:
    """The first checkpoint with the weighted mean of all tensors, summed in float64: equal ones stay equal to the bit."""
    tensors = {
        name: _mean([checkpoint.tensors[name] for checkpoint in checkpoints], shares) for name in checkpoints[0].tensors
    }
    dense = list(checkpoints[0].dense)
    if checkpoints[0].pooling == "pooler":  # a Dense made of two of these tensors
        weights, biases = zip(*((c.dense[0].weight, c.dense[0].bias) for c in checkpoints), strict=True)
        bias = None if dense[0].bias is None else _mean(biases, shares)
        dense[0] = replace(dense[0], weight=_mean(weights, shares), bias=bias)
    return replace(checkpoints[0], tensors=tensors, dense=dense)


def _mean(arrays: Sequence[FloatArray], shares: Shares) -> FloatArray:
    total = sum(share * array.astype(np.float64) for share, array in zip(shares, arrays, strict=True))
    return np.asarray(total, np.float32)


def _greedy(
    folder: Path, checkpoints: Sequence[Checkpoint], pairs: Sts, progress: Progress
) -> tuple[Shares, list[float | None], float]:
    """Shares (1 or 0), each checkpoint's own score, and the soup's: Wortsman et al., recipe 1."""
    total = 2 * len(checkpoints) - 1
    own: list[float] = []
    for checkpoint in checkpoints:
        own.append(_score(folder, checkpoint, pairs))
        progress("soup (models scored)", len(own), total)
    order = sorted(range(len(own)), key=lambda i: -own[i])
    shares = np.zeros(len(own))
    shares[order[0]], best = 1, own[order[0]]
    for done, i in enumerate(order[1:], start=1):
        trial = shares.copy()
        trial[i] = 1
        score = _score(folder, _averaged(checkpoints, trial / trial.sum()), pairs)
        if score >= best:
            shares, best = trial, score
        progress("soup (models scored)", len(own) + done, total)
    return shares, [*own], best


def _score(folder: Path, checkpoint: Checkpoint, pairs: Sts) -> float:
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    subject = Subject(folder, checkpoint, encoder_weights(checkpoint), head, ())
    first, second = (
        unit_rows(embed(subject.weights, head, subject.token_ids(side))) for side in (pairs.first, pairs.second)
    )
    return round(sts_score(first, second, pairs.scores), 3)


def _refuse_difference(source: Path, first: Checkpoint, folder: Path, other: Checkpoint) -> None:
    """Raises CheckpointError for the first thing that makes the mean of two models no model."""
    what = _difference(first, other)
    if what:
        raise CheckpointError(
            f"{folder} and {source} cannot be averaged: {what}; give runs of one training with different seeds or options"
        )


def _difference(first: Checkpoint, other: Checkpoint) -> str | None:
    for key in sorted(first.config.keys() | other.config.keys()):
        ours, theirs = (checkpoint.config.get(key) for checkpoint in (first, other))
        if key not in INCIDENTAL_FIELDS and ours != theirs:
            return f"{key} is {theirs!r} there and {ours!r} here"
    for name in sorted(first.tensors.keys() ^ other.tensors.keys()):
        return f"only one of them has the tensor {name!r}"
    for name, tensor in first.tensors.items():
        if tensor.shape != other.tensors[name].shape:
            return f"{name} is {list(other.tensors[name].shape)} there and {list(tensor.shape)} here"
    if first.tokenizer.to_str() != other.tokenizer.to_str():
        return "their tokenizers differ"
    if (first.pooling, first.normalize) != (other.pooling, other.normalize):
        return f"one pools by {other.pooling!r}, the other by {first.pooling!r}, or only one normalises"
    if not _same_dense(first, other):
        return "their Dense modules differ, and a soup averages the encoder alone (distill with projection 'pca')"
    return None


def _same_dense(first: Checkpoint, other: Checkpoint) -> bool:
    # A pooler is one of the encoder's tensors, so it is averaged with them.
    ours, theirs = (c.dense[1:] if c.pooling == "pooler" else c.dense for c in (first, other))
    return len(ours) == len(theirs) and all(
        a.activation == b.activation
        and a.weight.shape == b.weight.shape
        and np.array_equal(a.weight, b.weight)
        and (a.bias is None) == (b.bias is None)
        and (a.bias is None or b.bias is None or np.array_equal(a.bias, b.bias))
        for a, b in zip(ours, theirs, strict=True)
    )
