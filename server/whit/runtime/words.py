"""A short cut for plain text: the tokens of each word are looked up, once they are known.

BERT's tokenizer splits at white space and punctuation and then reads each word by itself, so a word has the same tokens in
every text. ``tokenizers`` takes about 25 µs for a short sentence, a dictionary 6: next to a transformer that is nothing,
next to a table of rows (``whit.runtime.static``) it is most of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[a-z0-9]+|[^a-z0-9 ]")
_WORD_COUNT = 1 << 15  # words remembered at most: about 6 MB, 16 where their tokens are n-grams
_WORD_LENGTH = 32  # longer ones are not remembered


class WordMemory:
    """The tokens of words seen so far. May be used from several threads at once: entries are only added, and are right."""

    def __init__(self, read: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> None:
        """``read``: token ids of each word, without special tokens."""
        self._read = read
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> NDArray[np.int64] | None:
        """Token ids of a text, int64 [token count]; None where it is not plain, which only the tokenizer can read."""
        # Printable ASCII only: everything else is for the normaliser (accents, control characters, Chinese).
        if not (text.isascii() and text.isprintable()):
            return None
        return self.look_up(_WORD.findall(text.lower()))

    def look_up(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Token ids of words, one word's after another's, int64 [token count]."""
        known = self._known
        try:
            return np.array([row for word in words for row in known[word]], np.int64)
        except KeyError:
            known = self._learn(words)
            return np.array([row for word in words for row in known[word]], np.int64)

    def _learn(self, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The tokens of these words; keeps those of new words as long as there is room."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        read = {word: tuple(ids) for word, ids in zip(new, self._read(new), strict=True)}
        for word in new:
            if len(self._known) < _WORD_COUNT and len(word) <= _WORD_LENGTH:
                self._known[word] = read[word]
        return {word: self._known[word] if word in self._known else read[word] for word in words}


def reads_words_apart(tokenizer_json: str) -> bool:
    """Whether a tokenizer is BERT's, lower-casing, and nothing in it looks at more than one word or at spaces.

    Tokens added to the vocabulary are found before words are split, and special tokens are put around a text: a tokenizer
    with either is not taken.
    """
    content = json.loads(tokenizer_json)
    normalizer, pre_tokenizer = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    return (
        not content.get("added_tokens")
        and content.get("post_processor") is None
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("lowercase") is True
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and content["model"].get("type") == "WordPiece"
    )
