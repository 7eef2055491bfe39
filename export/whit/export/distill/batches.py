"""Which texts are trained on, in which order and in which company: decided by the seed alone, so that a run resumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# Texts that are tokenised, looked up and sorted by length together: enough for batches without padding, and few enough
# that the first step comes soon.
CHUNK = 4096


def chunks(text_count: int, seed: int, epoch: int) -> list[Indices]:
    """All texts once, in a random order of this epoch, in chunks of at most ``CHUNK``."""
    order = np.random.default_rng([seed, epoch]).permutation(text_count)
    return [order[start : start + CHUNK] for start in range(0, text_count, CHUNK)]


def batches(lengths: Sequence[int], token_budget: int, seed: Sequence[int]) -> list[list[int]]:
    """Positions in ``lengths`` grouped into batches of similar length, in random order.

    A batch padded to its longest text has at most ``token_budget`` tokens (but always one text).
    """
    random = np.random.default_rng(seed)
    order = sorted(random.permutation(len(lengths)).tolist(), key=lambda i: lengths[i])
    found: list[list[int]] = []
    for i in order:  # ascending, so that the newest text is the longest of its batch
        if not found or lengths[i] * (len(found[-1]) + 1) > token_budget:
            found.append([])
        found[-1].append(i)
    return [found[i] for i in random.permutation(len(found))]
