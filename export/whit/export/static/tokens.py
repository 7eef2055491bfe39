"""The tokens of a static student: some of its teacher's, whole words beside them, and what the teacher says of each.

The tokenizer is the teacher's with another vocabulary and without special tokens: they carry no meaning of their own, and
a table has no use for a place to put one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers

from whit.contract.manifest import TOKENIZER_FILE
from whit.export.checkpoint import FloatArray
from whit.export.errors import CheckpointError, OptionError
from whit.export.vocabulary_kinds import KINDS
from whit.runtime.opening import open_encoder
from whit.runtime.package import Package
from whit.runtime.packing import TokenIds

_BATCH = 4096  # texts tokenised, or tokens embedded, at a time
_LEAST_WORD_COUNT = 5  # a rarer word is better served by its pieces


@dataclass(frozen=True, slots=True)
class Tokens:
    """A vocabulary of V tokens.

    Attributes:
        tokenizer: text to ids 0 to V - 1.
        pieces: for each token the teacher's ids that it stands for, without special tokens.
    """

    tokenizer: tokenizers.Tokenizer
    pieces: Sequence[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, texts: Sequence[str], limit: int) -> list[TokenIds]:
        """Ids of each text, int64, the first ``limit`` of them."""
        found: list[TokenIds] = []
        for start in range(0, len(texts), _BATCH):
            encodings = self.tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]))
            found += [np.array(encoding.ids[:limit], np.int64) for encoding in encodings]
        return found


def choose_tokens(teacher: Package, texts: Sequence[str], size: int | None, word_count: int) -> Tokens:
    """The teacher's tokens that some text can produce, or the ``size`` most frequent in ``texts``, and new words.

    Args:
        teacher: whose ``tokenizer.json`` is the start.
        texts: what is counted on.
        size: tokens in all, new words included; None: as many as there are.
        word_count: frequent words that the teacher reads in pieces become tokens of their own, up to so many.

    Raises:
        CheckpointError: the vocabulary is of a kind that cannot be cut, or ``size`` has no room for single characters.
    """
    content = json.loads((teacher.directory / TOKENIZER_FILE).read_text(encoding="utf-8"))
    content |= {"post_processor": None, "truncation": None, "padding": None}
    name = content["model"].get("type")
    if name not in KINDS:
        raise CheckpointError(
            f"{teacher.directory / TOKENIZER_FILE}: a vocabulary of type {name!r} cannot be cut, only {', '.join(KINDS)}"
        )
    full = tokenizers.Tokenizer.from_str(json.dumps(content))
    kind = KINDS[name](content["model"], content.get("added_tokens", []), full)
    special = {int(token["id"]) for token in content.get("added_tokens", []) if token["special"]}
    counts = np.zeros(len(kind.tokens), np.int64)
    words: Counter[str] = Counter()
    for start in range(0, len(texts), _BATCH):
        for text, encoding in zip(
            texts[start : start + _BATCH], full.encode_batch(list(texts[start : start + _BATCH])), strict=True
        ):
            np.add.at(counts, encoding.ids, 1)
            if word_count and name == "WordPiece":
                words.update(_split_words(full, text, encoding))
    kept = kind.essential()
    kept = kept.union(*(kind.needs(row) for row in kept))
    new_words = _new_words(words, kind.tokens, word_count) if name == "WordPiece" else []
    room = len(kind.tokens) if size is None else size - len(new_words)
    if room < len(kept):
        raise OptionError(
            "vocabulary_size",
            f"must be at least {len(kept) + len(new_words)}, got {size}: single characters are always kept",
        )
    for row in np.argsort(-counts, kind="stable").tolist():
        if row in kept or row in special or kind.tokens[row] is None or not kind.is_reachable(row):
            continue
        group = {row} | kind.needs(row)
        if len(kept | group) <= room:
            kept |= group
    order = sorted(kept)
    model = kind.cut({old: new for new, old in enumerate(order)})
    own = len(model["vocab"])  # a tokenizer numbers what was added to it after all that its model has
    for word in new_words:
        model["vocab"][word] = len(model["vocab"])
    pieces: list[tuple[int, ...]] = [(row,) for row in order[:own]]
    pieces += [tuple(e.ids) for e in full.encode_batch(new_words)] if new_words else []
    pieces += [(row,) for row in order[own:]]
    added = [token for token in content.get("added_tokens", []) if token["id"] in kept and token["id"] not in special]
    content |= {"model": model, "added_tokens": [token | {"id": pieces.index((token["id"],))} for token in added]}
    return Tokens(tokenizers.Tokenizer.from_str(json.dumps(content)), pieces)


def _split_words(tokenizer: tokenizers.Tokenizer, text: str, encoding: Any) -> list[str]:
    """The words of a text that became several tokens, as the vocabulary would spell them."""
    if len(encoding.ids) == len(set(encoding.word_ids)):
        return []
    spans: dict[int, list[tuple[int, int]]] = {}
    for word, span in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            spans.setdefault(word, []).append(span)
    words = [text[parts[0][0] : parts[-1][1]] for parts in spans.values() if len(parts) > 1]
    return [tokenizer.normalizer.normalize_str(word) for word in words] if tokenizer.normalizer else words


def _new_words(words: Counter[str], known: Sequence[str | None], count: int) -> list[str]:
    names = set(known)
    frequent = [word for word, n in words.most_common() if n >= _LEAST_WORD_COUNT and word not in names]
    return frequent[:count]


def token_vectors(teacher: Package, tokens: Tokens, progress: Callable[[int], None]) -> FloatArray:
    """What the teacher says of each token as a text of its own, float32 [V, D] (Model2Vec; Minish Lab, 2024)."""
    tokenizer = tokenizers.Tokenizer.from_file(str(teacher.directory / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoding = tokenizer.encode("a")
    special = np.array(encoding.special_tokens_mask, bool)
    ids, first = np.array(encoding.ids), int(np.argmin(special))
    last = len(special) - int(np.argmin(special[::-1]))
    sequences = [np.concatenate([ids[:first], piece, ids[last:]]).astype(np.int64) for piece in tokens.pieces]
    encoder = open_encoder(teacher)
    parts = []
    for start in range(0, len(sequences), _BATCH):
        parts.append(encoder.encode(sequences[start : start + _BATCH]))
        progress(start)
    return np.concatenate(parts)
