"""Which texts are trained on, in which order and in which company: decided by the seed alone, so that a run resumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import FloatArray
from whit.export.distill.topics import neighbours

Indices = NDArray[np.int64]

# Texts that are tokenised, looked up and sorted by length together: enough for batches without padding, and few enough
# that the first step comes soon.
CHUNK = 4096
# Texts about the same that batches are cut from: the fewer the nearer, but lengths must suit each other, too.
TOPIC = 256


def chunks(text_count: int, seed: int, epoch: int) -> list[list[Indices]]:
    """All texts once, in a random order of this epoch, in chunks of at most ``CHUNK``; each a single group."""
    order = np.random.default_rng([seed, epoch]).permutation(text_count)
    return [[order[start : start + CHUNK]] for start in range(0, text_count, CHUNK)]


def topic_chunks(rows: FloatArray, seed: int, epoch: int) -> list[list[Indices]]:
    """As ``chunks``, each in groups of at most ``TOPIC`` texts whose ``rows`` [texts, d] lie near each other."""
    groups = neighbours(rows, TOPIC, (seed, epoch))
    count = CHUNK // TOPIC
    return [groups[start : start + count] for start in range(0, len(groups), count)]


def batches(
    lengths: Sequence[int], token_budget: int, seed: Sequence[int], group_sizes: Sequence[int] | None = None
) -> list[list[int]]:
    """Positions in ``lengths`` grouped into batches of similar length, in random order.

    A batch padded to its longest text has at most ``token_budget`` tokens (but always one text). With ``group_sizes`` the
    positions are those of groups, one after the other, and all texts of a batch are of one of them.
    """
    random = np.random.default_rng(seed)
    found: list[list[int]] = []
    start = 0
    for size in [len(lengths)] if group_sizes is None else group_sizes:
        order = sorted((start + random.permutation(size)).tolist(), key=lambda i: lengths[i])
        found += _cut(order, lengths, token_budget)
        start += size
    return [found[i] for i in random.permutation(len(found))]


def _cut(order: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    found: list[list[int]] = []
    for i in order:  # ascending, so that the newest text is the longest of its batch
        if not found or lengths[i] * (len(found[-1]) + 1) > token_budget:
            found.append([])
        found[-1].append(i)
    return found
