"""The packed layout: the tokens of several texts back to back, without padding.

Linear layers, LayerNorm and GELU see ``[T, H]`` with no padding at all; only attention and pooling see a padded
``[B, S]`` grid, through index tensors made here (unpadding as in mGTE, arXiv:2407.19669, and ModernBERT,
arXiv:2412.13663).

Batch invariance: S is the attention length, a function of a text's own token count, and a micro-batch holds texts of one
attention length only. So no reduction (softmax, pooling) ever changes its shape with the company a text keeps, and
vectors are bit-identical alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


def attention_length(token_count: int, bucket: int, unmasked_length: int = 0) -> int:
    """``token_count`` rounded up to a multiple of ``bucket``; ``unmasked_length`` is left to texts that fill it."""
    length = -(-token_count // bucket) * bucket
    return length + bucket if token_count < length == unmasked_length else length


def pack(sequences: Sequence[TokenIds], *, length: int, position_offset: int) -> dict[str, NDArray[np.generic]]:
    """The graph's inputs for one micro-batch of B sequences with T tokens in all, S = ``length``.

    Returns:
        ``input_ids`` int64 [T]; ``position_ids`` int64 [T]; ``gather_idx`` int64 [B, S], where each cell's token lies in
        the pack (0 in empty cells); ``key_mask`` float32 [B, S], 1 where a cell holds a token; ``scatter_idx`` int64
        [T], the cell of each token in the flattened grid.
    """
    counts = np.array([len(ids) for ids in sequences])
    ends = np.cumsum(counts)
    positions = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    mask = np.arange(length) < counts[:, None]
    gather = np.zeros(mask.shape, np.int64)
    gather[mask] = np.arange(ends[-1])
    return {
        "input_ids": np.concatenate(sequences),
        "position_ids": positions + position_offset,
        "gather_idx": gather,
        "key_mask": mask.astype(np.float32),
        "scatter_idx": np.flatnonzero(mask),
    }


def micro_batches(
    token_counts: Sequence[int], *, length_of: Callable[[int], int], token_budget: int
) -> Iterator[list[int]]:
    """Splits texts into micro-batches for offline work, sorted by length.

    A micro-batch has one attention length, which ``length_of`` gives for a token count, and at most ``token_budget`` tokens
    (a longer text goes alone). Yields lists of indices into ``token_counts``.
    """
    batch: list[int] = []
    tokens = 0
    for index in np.argsort(token_counts, kind="stable").tolist():
        count = token_counts[index]
        same = batch and length_of(token_counts[batch[0]]) == length_of(count)
        if batch and (not same or tokens + count > token_budget):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += count
    if batch:
        yield batch


def run_all(
    run: Callable[[list[int]], NDArray[np.float32]],
    batches: Sequence[list[int]],
    dimension_count: int,
    executor: Executor | None,
) -> NDArray[np.float32]:
    """What ``run`` gives for each micro-batch of indices, put together: float32 [indices, dimension_count].

    Side by side if an executor is given; the longest first, so that the last ones to finish are short.
    """
    vectors = np.empty((sum(map(len, batches)), dimension_count), np.float32)
    last_first = list(reversed(batches))
    for batch, rows in zip(last_first, (executor.map if executor else map)(run, last_first), strict=True):
        vectors[batch] = rows
    return vectors
