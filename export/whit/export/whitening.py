"""Whitens a checkpoint's vectors: a Dense after the pooling that centres them and evens out their directions.

BERT-whitening (Su et al., arXiv:2103.15316) and WhiteningBERT (arXiv:2104.01767): of great help to encoders that were never
trained for similarity, of little or none to those that were, so look at a dev score before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.compile import calibration_texts
from whit.export.derive import check_out, derive_checkpoint
from whit.export.distill.head import with_dense
from whit.export.embed import embed
from whit.export.encoder_graph import Head
from whit.export.errors import CheckpointError, OptionError
from whit.export.families import encoder_weights
from whit.export.prune.subject import Subject
from whit.export.texts import read_texts
from whit.export.tokenless import texts_with_tokens

# Directions with less variance than this share of the largest hold rounding noise only.
_LEAST_VARIANCE = 1e-7


@dataclass(frozen=True, slots=True)
class WhitenOptions:
    """How to whiten.

    ``power`` 1 gives every direction the same variance, 0 only centres and turns them (principal components), values
    between do it by halves. ``dimension_count`` keeps the directions with the most variance; None: all.
    """

    corpus: Path | None = None  # text of the kind that will be embedded; None: the calibration text of whit
    text_count: int = 20_000  # the first so many of it
    dimension_count: int | None = None
    power: float = 1.0
    pooling: str | None = None  # for a checkpoint that does not say


@dataclass(frozen=True, slots=True)
class WhitenReport:
    """What whitening found. ``variance_share`` is what the kept directions hold of the vectors' variance."""

    text_count: int
    dimension_count_before: int
    dimension_count: int
    variance_share: float


def whiten(
    source: Path, out: Path, options: WhitenOptions, progress: Callable[[str, int, int], None] = lambda *_: None
) -> WhitenReport:
    """Writes ``source`` with one more Dense before the normalisation to ``out``.

    Raises:
        CheckpointError: checkpoint, corpus or an option cannot be used, or ``out`` cannot be written.
    """
    check_out(out, source)
    if not 0 <= options.power <= 1:
        raise OptionError("power", f"must be between 0 and 1, got {options.power}")
    if options.text_count < 1:
        raise OptionError("text_count", f"must be at least 1, got {options.text_count}")
    checkpoint = read_checkpoint(source, pooling=options.pooling)
    texts = read_texts(options.corpus, limit=options.text_count) if options.corpus else calibration_texts(None)
    texts = texts_with_tokens(texts, checkpoint.tokenizer)
    head = Head(checkpoint.pooling, checkpoint.dense, normalize=False)
    subject = Subject(source, checkpoint, encoder_weights(checkpoint), head, texts)
    progress("whiten (texts)", 0, len(texts))
    vectors = embed(subject.weights, head, subject.token_ids(texts))
    progress("whiten (texts)", len(texts), len(texts))

    count = vectors.shape[1] if options.dimension_count is None else options.dimension_count
    if not 1 <= count <= vectors.shape[1]:
        raise OptionError("dimension_count", f"must be 1 to {vectors.shape[1]}, got {count}")
    if len(texts) <= count:
        raise CheckpointError(
            f"{count} dimensions need more than {count} texts to whiten on, got {len(texts)}; give a larger corpus"
        )
    if not np.ptp(vectors, axis=0).any():
        raise CheckpointError(
            f"all {len(texts)} texts have one vector, which has no directions; give a corpus of texts that differ"
        )
    weight, bias, share = whitening(vectors, count, options.power)
    report = WhitenReport(len(texts), vectors.shape[1], count, round(share, 6))
    step = {"step": "whiten", "power": options.power, "dimension_count": count, "text_count": len(texts)}
    with with_dense(source, (weight, bias), pooling=checkpoint.pooling) as folder:
        derive_checkpoint(folder, out, tensors=checkpoint.tensors, step=step, keep_rounding=True)
    return report


def whitening(vectors: FloatArray, count: int, power: float) -> tuple[FloatArray, FloatArray, float]:
    """Weight [d, count] and bias [count] of ``x @ weight + bias``, and the share of the variance that is kept.

    Args:
        vectors: float32 [n, d].
        count: directions to keep.
        power: each is divided by its standard deviation to this power.
    """
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(exact - mean, rowvar=False))
    order = np.argsort(-variances)[:count]
    scales = np.maximum(variances[order], _LEAST_VARIANCE * variances.max()) ** (-power / 2)
    weight = directions[:, order] * scales
    share = float(variances[order].sum() / variances.sum())
    return weight.astype(np.float32), (-mean @ weight).astype(np.float32), share
