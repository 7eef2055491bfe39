"""Text to token ids with the package's own ``tokenizer.json``.

Never truncates: whether a text may be cut is the caller's decision, made with the true token count in hand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.contract.manifest import TOKENIZER_FILE, PackageError
from whit.runtime.package import Package
from whit.runtime.pieces import added_texts, cutting_places, split
from whit.runtime.words import WordMemory, reads_words_apart

# Up to so many characters are read without giving the interpreter's lock away: to have it back from a thread that computes takes
# longer, up to the interpreter's switch interval of 5 ms.
_SHORT_LENGTH = 512

# The library takes some 400 bytes a token until its result is dropped. So many characters are read at a time.
_PART_LENGTH = 1 << 16

# The library would start a thread per core for a batch; whit has its own threads and counts every core.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Tokenizer:
    """The tokenizer of one package. ``encode`` may be called from several threads at once."""

    def __init__(self, package: Package) -> None:
        path = package.directory / TOKENIZER_FILE
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise PackageError(f"{path} cannot be read ({error}); copy the package again or export it again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._head_count, self._tail_count = self._special_counts()
        has_special_ends_only = self._has_special_ends_only()
        self._places = cutting_places(self._tokenizer) if has_special_ends_only else None
        # The short cut for plain text, where the tokenizer is one that it gives the same tokens as.
        self._words = self._word_memory() if has_special_ends_only and reads_words_apart(self._tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, special tokens included, int64 [token count]. Releases the GIL while the library reads long ones.

        Raises:
            UnicodeEncodeError: a text holds a lone surrogate and has no UTF-8 form.
        """
        return list(self.encode_each(texts))

    def encode_each(
        self, texts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> Iterator[NDArray[np.int64]]:
        """As ``encode``, one text after another, so that the caller need not hold the tokens of all.

        Args:
            texts: read in parts; a long one in pieces, where that changes no token.
            check: called before each part and piece; raises to have no more read.
        """
        for part in _parts(texts):
            if self._places and len(part[0]) > _PART_LENGTH:
                yield self._encode_long(part[0], self._places, check)
            else:
                check()
                yield from self._encode_part(part)

    def _encode_long(self, text: str, places: re.Pattern[str], check: Callable[[], None]) -> NDArray[np.int64]:
        found: list[NDArray[np.int64]] = []
        for piece in split(text, places, _PART_LENGTH):
            check()
            found += self._encode_part([piece])
        last = len(found) - 1
        return np.concatenate(
            [
                ids[self._head_count if i > 0 else 0 : len(ids) - (self._tail_count if i < last else 0)]
                for i, ids in enumerate(found)
            ]
        )

    def _encode_part(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        if self._words is None:
            return [np.array(ids, np.int64) for ids in self._read(texts)]
        found = [self._words.encode(text) for text in texts]
        left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        rest = iter(self._read(left)) if left else iter(())
        return [np.array(next(rest), np.int64) if ids is None else ids for ids in found]

    def _read(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Token ids by the library; ``special``: with the special tokens around a text."""
        return [ids for part in _parts(texts) for ids in self._read_part(part, special)]

    def _read_part(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        try:
            if sum(map(len, texts)) <= _SHORT_LENGTH:
                return [self._tokenizer.encode(text, add_special_tokens=special).ids for text in texts]
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
            return [encoding.ids for encoding in found]
        except TypeError:  # how the library says that it cannot read a text
            for text in texts:
                text.encode()
            raise

    def cut(self, ids: NDArray[np.int64], max_token_count: int) -> NDArray[np.int64]:
        """The first tokens that fit into ``max_token_count``, with the special tokens of both ends kept."""
        if len(ids) <= max_token_count:
            return ids
        tail = self._tail_count if self._head_count + self._tail_count < max_token_count else 0
        return np.concatenate([ids[: max_token_count - tail], ids[len(ids) - tail :]])

    def _word_memory(self) -> WordMemory:
        ids = self._tokenizer.encode("a").ids
        return WordMemory(
            lambda words: self._read(words, special=False),
            head=ids[: self._head_count],
            tail=ids[len(ids) - self._tail_count :],
            added=added_texts(self._tokenizer),
        )

    def _special_counts(self) -> tuple[int, int]:
        """Special tokens put before and after a text."""
        mask = self._tokenizer.encode("a").special_tokens_mask
        head = next((i for i, special in enumerate(mask) if not special), len(mask))
        tail = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        return head, tail

    def _has_special_ends_only(self) -> bool:
        """Whether special tokens are put at the ends of a text and nowhere else, and its own tokens are left alone."""
        ids, own = self._tokenizer.encode("a").ids, self._tokenizer.encode("a", add_special_tokens=False).ids
        return ids[self._head_count : len(ids) - self._tail_count] == own


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Neighbours of ``_PART_LENGTH`` characters together; a longer text is a part of its own."""
    part: list[str] = []
    length = 0
    for text in texts:
        if part and length + len(text) > _PART_LENGTH:
            yield part
            part, length = [], 0
        part.append(text)
        length += len(text)
    if part:
        yield part
