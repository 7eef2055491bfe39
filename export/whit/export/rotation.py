"""Turns a checkpoint's vectors so that their signs say more: a Dense before the normalisation that is a rotation.

A rotation leaves every cosine, and so every score of float vectors, as it is; what it changes is which half-spaces the bits of
binary and residual codes stand for. The turn is that of iterative quantisation (Gong and Lazebnik, "Iterative Quantization: A
Procrustean Approach to Learning Binary Codes", CVPR 2011), without its centring and its principal components, which would
change cosines. It is learned from texts without labels, and serves texts of their kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.contract.vectors import Encoding, decode, encode
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

# Beyond this the bits hardly change any more.
_TURNS = 50
# The report compares the neighbours of so many texts.
_ASKED_COUNT = 500
_NEIGHBOUR_COUNT = 10


@dataclass(frozen=True, slots=True)
class RotateOptions:
    """What to learn the rotation from."""

    corpus: Path | None = None  # the texts that will be searched, or of their kind; None: the text that ships with whit
    text_count: int = 20_000  # the first so many of it
    pooling: str | None = None  # for a checkpoint that does not say


@dataclass(frozen=True, slots=True)
class RotateReport:
    """What the rotation is worth, on the texts it was learned from.

    ``same_10`` is the share of a text's ten nearest by cosine that are among its ten nearest by bits, in %.
    """

    text_count: int
    dimension_count: int
    same_10_before: float
    same_10: float


def rotate(
    source: Path, out: Path, options: RotateOptions, progress: Callable[[str, int, int], None] = lambda *_: None
) -> RotateReport:
    """Writes ``source`` with a rotation before the normalisation to ``out``.

    The prefixes that a Matryoshka checkpoint was trained for keep their cosines too: each stretch between two of them is turned
    by itself.

    Raises:
        CheckpointError: checkpoint, corpus or an option cannot be used, the rotation does not help, or ``out`` cannot be written.
    """
    check_out(out, source)
    if options.text_count < 1:
        raise OptionError("text_count", f"must be at least 1, got {options.text_count}")
    checkpoint = read_checkpoint(source, pooling=options.pooling)
    texts = read_texts(options.corpus, limit=options.text_count) if options.corpus else calibration_texts(None)
    texts = texts_with_tokens(texts, checkpoint.tokenizer)
    head = Head(checkpoint.pooling, checkpoint.dense, normalize=True)  # signs know no lengths
    subject = Subject(source, checkpoint, encoder_weights(checkpoint), head, texts)
    progress("rotate (texts)", 0, len(texts))
    vectors = embed(subject.weights, head, subject.token_ids(texts))
    progress("rotate (texts)", len(texts), len(texts))

    dimension_count = vectors.shape[1]
    if len(texts) <= dimension_count:
        raise CheckpointError(
            f"{dimension_count} dimensions need more than {dimension_count} texts to learn a rotation from, got "
            f"{len(texts)}; give a larger corpus"
        )
    turn = rotation(vectors, checkpoint.matryoshka_dimension_counts)
    report = RotateReport(
        len(texts), dimension_count, _same_neighbours(vectors, vectors), _same_neighbours(vectors, vectors @ turn)
    )
    if report.same_10 <= report.same_10_before:
        # Vectors that all point one way are turned towards the middle of one half-space of every bit.
        raise CheckpointError(
            f"no rotation was found that helps: the bits of {source.name} find {report.same_10_before} % of the ten nearest as they "
            f"are and {report.same_10} % turned; centre its vectors first (the step whiten with power = 0) or leave rotate out"
        )
    step = {"step": "rotate", "text_count": len(texts)}
    with with_dense(source, (turn, np.zeros(dimension_count, np.float32)), pooling=checkpoint.pooling) as folder:
        derive_checkpoint(folder, out, tensors=checkpoint.tensors, step=step, keep_rounding=True)
    return report


def rotation(vectors: FloatArray, prefixes: Sequence[int] = ()) -> FloatArray:
    """An orthogonal float32 [d, d] that brings ``vectors @ rotation`` near their signs.

    Args:
        vectors: float32 [n, d], of length 1.
        prefixes: numbers of first dimensions whose cosines are to stay; the result has no numbers that reach across them.
    """
    turn = np.zeros((vectors.shape[1],) * 2, np.float32)
    edges = sorted({0, *(count for count in prefixes if count < vectors.shape[1]), vectors.shape[1]})
    for start, end in itertools.pairwise(edges):
        turn[start:end, start:end] = _turned(vectors[:, start:end])
    return turn


def _turned(x: FloatArray) -> FloatArray:
    """Bits for the rotation, then the rotation for the bits (an orthogonal Procrustes problem), in turns."""
    turn = np.eye(x.shape[1], dtype=np.float32)
    for _ in range(_TURNS):
        bits = np.where(x @ turn > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd((x.T @ bits).astype(np.float64))
        turn = (left @ right).astype(np.float32)
    return turn


def _same_neighbours(vectors: FloatArray, turned: FloatArray) -> float:
    """Share, in %, of the ten nearest by the cosines of ``vectors`` [n, d] that the bits of ``turned`` find."""
    bits = decode(encode(turned, Encoding.BINARY))
    asked = np.unique(np.linspace(0, len(vectors) - 1, _ASKED_COUNT).astype(np.intp))
    pairs = zip(_nearest(vectors, asked), _nearest(bits, asked), strict=True)
    return round(100 * float(np.mean([len(np.intersect1d(a, b)) / _NEIGHBOUR_COUNT for a, b in pairs])), 2)


def _nearest(vectors: FloatArray, asked: NDArray[np.intp]) -> NDArray[np.intp]:
    products = vectors[asked] @ vectors.T
    products[np.arange(len(asked)), asked] = -np.inf
    return np.argsort(-products, axis=1, kind="stable")[:, :_NEIGHBOUR_COUNT]
