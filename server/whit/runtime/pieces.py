"""Where a long text may be cut into pieces whose tokens, one piece's after another's, are those of the whole."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import tokenizers

# BERT's tokenizer ends a word before each of these, whatever stands around it. Not "_", a letter in the search for added tokens.
_ENDS = set(string.punctuation.replace("_", "") + " \t\n\r")


def cutting_places(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Finds characters before which a text may be cut; None for tokenizers that may look across any character.

    Known is BERT's: it normalises character by character (or a letter with its accents), and reads each word by itself.
    Tokens added to the vocabulary are found before that, so a text is not cut at a character that is in one.
    """
    ends = _ENDS.difference(*added_texts(tokenizer))
    return re.compile(f"[{re.escape(''.join(sorted(ends)))}]") if is_bert(tokenizer) and ends else None


def is_bert(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer is BERT's, which splits a text at white space and punctuation and reads each word by itself."""
    return (
        isinstance(tokenizer.normalizer, tokenizers.normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, tokenizers.pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.model, tokenizers.models.WordPiece)
    )


def added_texts(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """What a tokenizer finds in a text before it splits words: [MASK] and the like, and tokens added to its vocabulary."""
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def split(text: str, places: re.Pattern[str], length: int) -> Iterator[str]:
    """Cuts a text at the first place after every ``length`` characters."""
    start = 0
    while place := places.search(text, start + length):
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]
