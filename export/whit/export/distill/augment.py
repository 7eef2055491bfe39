"""More text out of the text there is: a teacher says what any text means, so pieces and joins teach as wholes do.

A corpus of sentences leaves a student poor at documents, and one of documents at queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PASSAGE = 50  # words, at least
_LONGEST = 180
# Words at least and at most: a query, a sentence or two, most of a passage.
_SPANS = ((5, 25), (25, 60), (60, _LONGEST))
_TEXTS_A_JOIN = 6


def augment(texts: Sequence[str], seed: int) -> list[str]:
    """The texts, and what is made of them; the same for the same seed.

    Added are every passage (50 words and more) once more, three spans of it, and for every six texts one passage that
    joins neighbours in the file.
    """
    random = np.random.default_rng(seed)
    found = list(texts)
    for text in texts:
        words = text.split()
        if len(words) >= _PASSAGE:
            found.append(text)
            found += [_span(words, int(random.integers(least, most + 1)), random) for least, most in _SPANS]
    found += [_join(texts, random) for _ in range(len(texts) // _TEXTS_A_JOIN)]
    return found


def _span(words: Sequence[str], wanted: int, random: np.random.Generator) -> str:
    count = min(wanted, len(words))
    start = int(random.integers(len(words) - count + 1))
    return " ".join(words[start : start + count])


def _join(texts: Sequence[str], random: np.random.Generator) -> str:
    """As many neighbours as make a passage, cut at a length drawn at random; fewer words at the end of the file."""
    at, wanted = int(random.integers(len(texts))), int(random.integers(_PASSAGE, _LONGEST + 1))
    words: list[str] = []
    while len(words) < wanted and at < len(texts):
        words += texts[at].split()
        at += 1
    return " ".join(words[:wanted])
