"""A short cut for plain text: the tokens of each word are looked up, once they are known.

BERT's tokenizer splits at white space and punctuation and then reads each word by itself, so a word has the same tokens in
every text. ``tokenizers`` takes five times as long as a dictionary: 61 µs instead of 13 for a sentence. That is most of the
time of a table of rows (``whit.runtime.static``), and a twentieth of the quickest int8 packages' (ADR 17).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.runtime.pieces import added_texts, is_bert

_WORD = re.compile(r"[a-z0-9]+|[^a-z0-9 ]")
_WORD_COUNT = 1 << 15  # words remembered at most: about 6 MB, 16 where their tokens are n-grams
_WORD_LENGTH = 32  # longer ones are not remembered


class WordMemory:
    """The tokens of words seen so far. May be used from several threads at once: entries are only added, and are right."""

    def __init__(
        self,
        read: Callable[[Sequence[str]], Sequence[Sequence[int]]],
        *,
        head: Sequence[int] = (),
        tail: Sequence[int] = (),
        added: Sequence[str] = (),
    ) -> None:
        """A memory without words.

        Args:
            read: token ids of each word, without special tokens.
            head: special tokens that ``encode`` puts before a text.
            tail: those that it puts after one.
            added: what the tokenizer looks for before it splits words; a text with one of them is not plain.
        """
        self._read = read
        self._head, self._tail = head, tail
        self._added = [each.lower() for each in added]
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> NDArray[np.int64] | None:
        """Token ids of a text, int64 [token count]; None where it is not plain, which only the tokenizer can read."""
        # Printable ASCII only: everything else is for the normaliser (accents, control characters, Chinese).
        if not (text.isascii() and text.isprintable()):
            return None
        lower = text.lower()
        for added in self._added:
            if added in lower:
                return None
        return np.array([*self._head, *self._ids(_WORD.findall(lower)), *self._tail], np.int64)

    def look_up(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Token ids of words, one word's after another's, int64 [token count]."""
        return np.array(self._ids(words), np.int64)

    def _ids(self, words: Sequence[str]) -> list[int]:
        known = self._known
        try:
            return [id_ for word in words for id_ in known[word]]
        except KeyError:
            known = self._learn(words)
            return [id_ for word in words for id_ in known[word]]

    def _learn(self, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The tokens of these words; keeps those of new words as long as there is room."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        read = {word: tuple(ids) for word, ids in zip(new, self._read(new), strict=True)}
        for word in new:
            if len(self._known) < _WORD_COUNT and len(word) <= _WORD_LENGTH:
                self._known[word] = read[word]
        return {word: self._known[word] if word in self._known else read[word] for word in words}


def reads_words_apart(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer is BERT's, lower-casing, so that ``WordMemory`` can tell which texts are plain to it."""
    return (
        is_bert(tokenizer)
        and tokenizer.normalizer.lowercase is True
        and all(added.isascii() for added in added_texts(tokenizer))
    )
