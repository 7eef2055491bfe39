"""Runs an encoder's graph over token ids: what calibration, the accuracy gate and every pruning step do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray
from whit.export.encoder_graph import OUTPUT, Head, build_graph
from whit.export.families import EncoderWeights
from whit.export.linear import Plan
from whit.export.parallel import side_by_side
from whit.runtime.encoder import open_session
from whit.runtime.packing import TokenIds, attention_length, micro_batches, pack

# A multiple of the SIMD width; packages are made with it, too.
ATTENTION_BUCKET = 16
_TOKEN_BUDGET = 512


def embed(weights: EncoderWeights, head: Head, sequences: Sequence[TokenIds], plan: Plan | None = None) -> FloatArray:
    """Vectors float32 [len(sequences), dimension_count] of the graph that ``plan`` says; None: the float32 graph.

    Without a token there is nothing to compute: the vector is zero.
    """
    session = open_session(build_graph(weights, head, plan or Plan()).SerializeToString())
    vectors = np.zeros((len(sequences), head.dimension_count(weights.hidden_count)), np.float32)
    found = micro_batch_feeds(weights, sequences)
    runs = side_by_side(partial(session.run, [OUTPUT]), [feeds for _, feeds in found])
    for (batch, _), (rows,) in zip(found, runs, strict=True):
        vectors[batch] = rows
    return vectors


def micro_batch_feeds(
    weights: EncoderWeights, sequences: Sequence[TokenIds]
) -> list[tuple[list[int], dict[str, NDArray[np.generic]]]]:
    """The micro-batches of ``sequences`` but for those without a token: which of them, and the graph's inputs.

    The order depends on the lengths alone.
    """
    length_of = partial(attention_length, bucket=ATTENTION_BUCKET)
    some = [i for i, ids in enumerate(sequences) if len(ids)]
    found = []
    for batch in micro_batches([len(sequences[i]) for i in some], length_of=length_of, token_budget=_TOKEN_BUDGET):
        texts = [sequences[some[i]] for i in batch]
        found.append(
            (
                [some[i] for i in batch],
                pack(texts, length=length_of(len(texts[0])), position_offset=weights.position_offset),
            )
        )
    return found
