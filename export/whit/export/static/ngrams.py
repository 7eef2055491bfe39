"""A static student without a tokenizer: n-grams of its words, hashed to rows, and where fitting these rows begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whit.contract.manifest import Ngrams
from whit.export.checkpoint import FloatArray
from whit.runtime.ngrams import NgramReader
from whit.runtime.packing import TokenIds

if TYPE_CHECKING:
    from scipy import sparse  # of the [static] extra: loaded by what computes with it

_PRIOR_COUNT = 5.0  # a row in few texts starts near the middle, not where those few lie


@dataclass(frozen=True, slots=True)
class HashedNgrams:
    """What takes the place of a vocabulary: V rows that share all n-grams of such lengths."""

    ngrams: Ngrams
    row_count: int

    def __len__(self) -> int:
        return self.row_count

    def encode(self, texts: Sequence[str], limit: int) -> list[TokenIds]:
        """Rows of each text's n-grams, int64, the first ``limit`` of them."""
        return [ids[:limit] for ids in NgramReader(self.ngrams, self.row_count).encode(texts)]


def common_vectors(texts: sparse.csr_matrix, targets: FloatArray) -> FloatArray:
    """For each row what the texts with it have in common and others lack, float32 [V, D].

    Args:
        texts: what ``fit.bags`` gives, [N, V].
        targets: the teacher's vectors of the texts, [N, D].
    """
    held = texts.astype(bool).astype(np.float32)
    counts = np.asarray(held.sum(axis=0)).reshape(-1, 1)
    return np.asarray((held.T @ (targets - targets.mean(axis=0))) / (counts + _PRIOR_COUNT), np.float32)
