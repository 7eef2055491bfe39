"""Misspelt text: what a student should read as its teacher reads the text as it was meant."""

from __future__ import annotations

import re

import numpy as np

_LONG_WORD = re.compile(r"[^\W\d_]{5,}")


def misspell(text: str, rng: np.random.Generator, *, share: float = 1.0) -> str:
    """A text with a slip of the finger in some words: two neighbouring letters swapped, or one left out.

    Args:
        text: any.
        rng: what chooses words, places and slips.
        share: of the words of five letters or more, how many get one.
    """
    return _LONG_WORD.sub(lambda found: _slip(found.group(), rng) if rng.random() < share else found.group(), text)


def _slip(word: str, rng: np.random.Generator) -> str:
    place = int(rng.integers(len(word) - 1))
    swapped = word[place + 1] + word[place] if rng.random() < 0.5 else word[place + 1]
    return word[:place] + swapped + word[place + 2 :]
