"""Fewer rows than tokens: a token that a text rarely needs reads the row of the token that is most like it.

"upbeat" is then read as "cheerful" and "jurist" as "judicial", where a vocabulary without them has "up ##be ##at" and
"ju ##rist", which nobody would call alike. Which tokens keep a row of their own is a facility location problem (the most
need served at the least distance), solved greedily as usual (Nemhauser et al., 1978), a batch of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import Checkpoint, FloatArray
from whit.export.embed import embed
from whit.export.encoder_graph import Head
from whit.export.families import encoder_weights

Ids = NDArray[np.int64]

# Chosen on STS-B dev for all-MiniLM-L6-v2 at 16,000 rows (docs/pruning.md); 1 and 2 do almost as well.
_EXPONENT = 1.5
_FREQUENT_SHARE = 0.25  # of the rows: they go to the tokens needed most, whatever is like them
_BATCHES = 50
_CHUNK = 1024
_NEIGHBOUR_SHARE = 0.3
_NEIGHBOURS = 300  # ids to either side


def needed(counts: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How often texts of the corpus's kind need each token: its own count, and a share of its neighbours'.

    A corpus lacks words by chance. Vocabularies are written in the order of frequency in the text that they were made from,
    so tokens with ids near to a token's say what to expect of it (empirical Bayes, with Robbins' idea that the many tell of
    the one); where ids are in no order, the neighbours tell all tokens the same.

    Args:
        counts: of each token in the corpus, [vocabulary size].
        usable: tokens that a text can produce and that are not kept in any case, [vocabulary size].
    """
    window = np.ones(2 * _NEIGHBOURS + 1)
    sums = np.convolve(np.where(usable, counts, 0), window)[_NEIGHBOURS:-_NEIGHBOURS]
    numbers = np.convolve(usable.astype(float), window)[_NEIGHBOURS:-_NEIGHBOURS]
    found: NDArray[np.float64] = counts + _NEIGHBOUR_SHARE * sums / np.maximum(numbers, 1)
    return found


def share_rows(
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    own: set[int],
    need: NDArray[np.float64],
    size: int,
    progress: Callable[[str, int, int], None],
) -> list[int]:
    """For each token the one whose row it reads: itself for ``size`` of them.

    Args:
        checkpoint: the model; what is alike is its to say.
        tokens: ids of the vocabulary, ascending.
        own: those that keep their row in any case; at most ``size``.
        need: how much texts need each id of the checkpoint's tokenizer, float64 [vocabulary size].
        size: how many rows there will be.
        progress: told how much is done.

    Returns:
        One id for each of ``tokens``.
    """
    ids = np.array(tokens)
    progress("share rows (steps)", 0, _BATCHES + 1)
    vectors, wanted = _alone(checkpoint, ids), need[ids]
    kept = np.isin(ids, list(own))
    frequent = np.argsort(np.where(kept, np.inf, -wanted), kind="stable")
    kept[frequent[: max(0, int(size * _FREQUENT_SHARE) - int(kept.sum()))]] = True

    nearest, similarity = np.arange(len(ids)), np.full(len(ids), -1, np.float32)
    new = np.flatnonzero(kept)
    for left in range(_BATCHES, 0, -1):
        _draw(nearest, similarity, vectors, np.flatnonzero(~kept), new)
        gain = np.where(kept, -np.inf, wanted * np.maximum(1 - similarity, 0) ** _EXPONENT)
        new = np.argsort(-gain, kind="stable")[: (size - int(kept.sum())) // left]
        kept[new], nearest[new] = True, new
        progress("share rows (steps)", _BATCHES + 1 - left, _BATCHES + 1)
    _draw(nearest, similarity, vectors, np.flatnonzero(~kept), new)
    progress("share rows (steps)", _BATCHES + 1, _BATCHES + 1)
    return [int(row) for row in ids[nearest]]


def _alone(checkpoint: Checkpoint, ids: Ids) -> FloatArray:
    """The model's vector of each token as a text of its own, [len(ids), dimension_count], of length 1."""
    special = checkpoint.tokenizer.encode("").ids
    sequences = [np.array([*special[:1], row, *special[1:]], np.int64) for row in ids.tolist()]
    return embed(encoder_weights(checkpoint), Head(checkpoint.pooling, checkpoint.dense), sequences)


def _draw(nearest: Ids, similarity: FloatArray, vectors: FloatArray, tokens: Ids, new: Ids) -> None:
    """Draws each of ``tokens`` to the most similar of ``new``, if that is more like it than what it was drawn to before."""
    if not len(new):
        return
    for start in range(0, len(tokens), _CHUNK):
        some = tokens[start : start + _CHUNK]
        found = vectors[some] @ vectors[new].T
        best = found.argmax(axis=1)
        cosine = found[np.arange(len(some)), best]
        closer = cosine > similarity[some]
        nearest[some[closer]] = new[best[closer]]
        similarity[some[closer]] = cosine[closer]
