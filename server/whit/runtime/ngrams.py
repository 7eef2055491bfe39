"""Text to rows of a table without a tokenizer: every word is its n-grams of characters, each hashed to a row.

There is no vocabulary, and a misspelt word keeps most of its n-grams (T-FREE: Deiseroth et al., 2024, arXiv:2406.19223).
Hashes are those of fastText (Bojanowski et al., TACL 2017), whose rows for whole words are left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import Ngrams
from whit.runtime.words import WordMemory

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")  # letters and digits, or a single sign


class NgramReader:
    """Reads texts as n-grams. May be used from several threads at once."""

    def __init__(self, ngrams: Ngrams, row_count: int) -> None:
        self._ngrams, self._row_count = ngrams, row_count
        self._words = WordMemory(self._read)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """For each text a row for each n-gram of each word, int64 [token count]: an n-gram is a token. None of white space.

        Raises:
            UnicodeEncodeError: a text holds a lone surrogate and has no UTF-8 form.
        """
        return list(self.encode_each(texts))

    def encode_each(
        self, texts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> Iterator[NDArray[np.int64]]:
        """As ``encode``, one text after another; ``check`` is called before each and raises to have no more read."""
        for text in texts:
            check()
            yield self._words.look_up(split_words(text))

    def cut(self, ids: NDArray[np.int64], max_token_count: int) -> NDArray[np.int64]:
        """The first ``max_token_count`` n-grams."""
        return ids[:max_token_count].copy()  # a view would keep the rest

    def _read(self, words: Sequence[str]) -> list[list[int]]:
        shortest, longest = self._ngrams.shortest, self._ngrams.longest
        return [ngram_buckets(word.encode(), shortest, longest, self._row_count) for word in words]


def split_words(text: str) -> list[str]:
    """The words and signs of a text in NFKC, lower case."""
    if not text.isascii():  # ASCII is in NFKC
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.lower())


def ngram_buckets(word: bytes, shortest: int, longest: int, bucket_count: int) -> list[int]:
    """The bucket of each character n-gram of ``<word>``, as fastText numbers them.

    An n-gram is a run of whole UTF-8 characters; the marks < and > by themselves are none.
    """
    marked = b"<" + word + b">"
    starts = [i for i, byte in enumerate(marked) if byte & 0xC0 != 0x80] + [len(marked)]
    found = []
    for first in range(len(starts) - 1):
        for length in range(max(shortest, 1), longest + 1):
            last = first + length
            if last >= len(starts):
                break
            if length == 1 and (first == 0 or last == len(starts) - 1):
                continue
            found.append(_hash(marked[starts[first] : starts[last]]) % bucket_count)
    return found


def _hash(text: bytes) -> int:
    """FNV-1a of 32 bits, in which fastText widens each byte as a signed one."""
    value = 2_166_136_261
    for byte in text:
        value ^= byte | 0xFFFFFF00 if byte > 127 else byte
        value = value * 16_777_619 & 0xFFFFFFFF
    return value
