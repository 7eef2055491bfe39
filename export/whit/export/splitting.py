"""What a text loses when a word in it is read in pieces: why a rare name is worth more room than a frequent plural."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.export.checkpoint import Checkpoint
from whit.export.embed import embed
from whit.export.encoder_graph import Head
from whit.export.families import encoder_weights

# How much more a costly split counts than a frequent one: chosen on STS-B dev for all-MiniLM-L6-v2 at 16,000 tokens, where
# frequency alone loses 1.4 points and this 1.0 (docs/pruning.md).
_EXPONENT = 3


def worth(counts: NDArray[np.int64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What keeping each token is worth, from its count in the corpus and what splitting it costs; one more for the unseen."""
    found: NDArray[np.float64] = (counts + 1) * costs**_EXPONENT
    return found


def splitting_costs(
    checkpoint: Checkpoint,
    reader: tokenizers.Tokenizer,
    frequent: Sequence[int],
    token_count: int,
    progress: Callable[[str, int, int], None],
) -> NDArray[np.float64]:
    """1 - cosine between a word's vector and that of its pieces, for each token.

    Args:
        checkpoint: the model.
        reader: its tokenizer with the most frequent tokens only: it gives the pieces.
        frequent: for each id of ``reader``, the id in the checkpoint's own tokenizer.
        token_count: of the checkpoint's tokenizer.
        progress: told how many words are done.

    Returns:
        float64 [token_count]; infinite for the frequent tokens; the median where a token cannot stand alone.
    """
    old_ids = np.array(frequent)
    tokenizer = checkpoint.tokenizer
    rows = sorted(set(range(token_count)) - set(frequent))
    texts = [tokenizer.decode([row], skip_special_tokens=False) for row in rows]
    alone = [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(texts)]
    special_count = len(tokenizer.encode("").ids)
    is_word = [len(ids) == special_count + 1 and row in ids for row, ids in zip(rows, alone, strict=True)]
    pieces = [old_ids[encoding.ids] for encoding in reader.encode_batch(texts)]
    words = [i for i, holds in enumerate(is_word) if holds]

    weights, head = encoder_weights(checkpoint), Head(checkpoint.pooling, checkpoint.dense)
    limit = weights.max_token_count
    vectors = []
    for done, sequences in enumerate((alone, pieces)):
        progress("trim (words, pieces)", done, 2)
        vectors.append(embed(weights, head, [sequences[i][:limit] for i in words]))
    progress("trim (words, pieces)", 2, 2)
    measured = np.maximum(1 - (vectors[0].astype(np.float64) * vectors[1]).sum(axis=1), 0)

    costs = np.full(token_count, np.inf)
    costs[rows] = np.median(measured) if len(measured) else 1.0
    costs[[rows[i] for i in words]] = measured
    return costs
