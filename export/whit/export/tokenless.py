"""Texts in which a tokenizer finds no token, such as a zero-width space: only one that puts no special tokens around a text has them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.export.errors import CheckpointError
from whit.runtime.packing import TokenIds

if TYPE_CHECKING:
    from whit.runtime.opening import AnyEncoder


def places_with_tokens(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Which of the texts have a token."""
    if tokenizer.num_special_tokens_to_add(is_pair=False):
        return list(range(len(texts)))
    return [i for i, encoding in enumerate(tokenizer.encode_batch_fast(list(texts))) if encoding.ids]


def texts_with_tokens(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[str]:
    """The texts that have a token.

    Raises:
        CheckpointError: none has.
    """
    found = [texts[i] for i in places_with_tokens(texts, tokenizer)]
    if not found:
        raise CheckpointError(f"none of {len(texts)} texts has a token that the model knows; give other text")
    return found


def encode_any(
    encoder: AnyEncoder,
    sequences: Sequence[TokenIds],
    dimension_count: int,
    *,
    token_budget: int = 512,
    executor: Executor | None = None,
    layer_count: int = 0,
) -> NDArray[np.float32]:
    """``encoder.encode`` for texts of which some may have no token: these have the zero vector, as in a table."""
    encode = partial(encoder.encode, token_budget=token_budget, executor=executor, layer_count=layer_count)
    some = [i for i, ids in enumerate(sequences) if len(ids)]
    if len(some) == len(sequences):
        return encode(sequences)
    vectors = np.zeros((len(sequences), dimension_count), np.float32)
    if some:
        vectors[some] = encode([sequences[i] for i in some])
    return vectors
