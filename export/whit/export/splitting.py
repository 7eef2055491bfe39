"""What a text loses when a word in it is read in pieces: why a rare name is worth more room than a frequent plural."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.export.checkpoint import Checkpoint
from whit.export.encoder_graph import Head
from whit.export.families import encoder_weights
from whit.export.prune.subject import embed

# Both chosen on STS-B dev for all-MiniLM-L6-v2 at 16,000 tokens (docs/compression.md).
_EXPONENT = 2  # how much more a costly split counts than a frequent one
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


def worth(need: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What keeping each token is worth, from how much it is needed and what splitting it costs."""
    found: NDArray[np.float64] = need * costs**_EXPONENT
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
