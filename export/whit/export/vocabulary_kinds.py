"""What each kind of vocabulary in ``tokenizer.json`` needs for a trimmed one to read kept tokens exactly as before.

A kind knows its tokens by id (their row in the embedding table), which of them must stay so that any text still tokenises, which others a token stands on,
and how to write the smaller model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import tokenizers

from whit.export.errors import CheckpointError

_BYTE = re.compile("<0x[0-9A-F]{2}>")

NewIds = Mapping[int, int]


class Kind(Protocol):
    """One vocabulary. Ids are those before trimming."""

    tokens: Sequence[str | None]
    """By row, added tokens included; None where a row has no token."""

    def essential(self) -> set[int]:
        """Tokens without which some text that can be read would no longer be."""

    def needs(self, row: int) -> set[int]:
        """Tokens without which this one would no longer come about."""

    def is_reachable(self, row: int) -> bool:
        """False if it is certain that no text gives this token."""

    def cut(self, new_ids: NewIds) -> dict[str, Any]:
        """The ``model`` object of tokenizer.json with the tokens in ``new_ids`` only."""


class WordPiece:
    """BERT's vocabulary: the longest piece that fits, from the left (arXiv:1609.08144, section 4.1).

    If the longest piece is kept it is still the longest, so kept tokens stay exact.
    """

    def __init__(
        self, model: Mapping[str, Any], added: Sequence[Mapping[str, Any]], tokenizer: tokenizers.Tokenizer
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._ids: Mapping[str, int] = model["vocab"]
        self._prefix = str(model.get("continuing_subword_prefix", "##"))
        self.tokens: Sequence[str | None] = _by_id(self._ids, added)

    def essential(self) -> set[int]:
        """Characters, and the pieces that hold a character which has no piece of its own."""
        found = {self._ids[self._model["unk_token"]]} if self._model["unk_token"] in self._ids else set()
        for token, row in self._ids.items():
            inside = token.startswith(self._prefix) and token != self._prefix
            characters = token.removeprefix(self._prefix) if inside else token
            rest = characters if inside else characters[1:]
            if len(characters) == 1 or (
                self.is_reachable(row) and any(self._prefix + character not in self._ids for character in rest)
            ):
                found.add(row)
        return found

    def needs(self, row: int) -> set[int]:
        """Nothing: a piece is found whole."""
        return set()

    def is_reachable(self, row: int) -> bool:
        """A piece that begins a word is reachable if it is read as itself: a normaliser or a split inside it rule it out."""
        return row not in self._unreachable

    @cached_property
    def _unreachable(self) -> set[int]:
        words = [(token, row) for token, row in self._ids.items() if not token.startswith(self._prefix)]
        encodings = self._tokenizer.encode_batch([token for token, _ in words], add_special_tokens=False)
        return {row for (_, row), encoding in zip(words, encodings, strict=True) if encoding.ids != [row]}

    def cut(self, new_ids: NewIds) -> dict[str, Any]:
        """The same model with fewer words."""
        return {**self._model, "vocab": {t: new_ids[row] for t, row in self._ids.items() if row in new_ids}}


class Bpe:
    """Byte-pair encoding (arXiv:1508.07909): merges in the order of their rank.

    No merge crosses the bounds of a token in the outcome, so a text whose tokens are kept, with all merges that lead to
    them, goes through the same merges as before.
    """

    def __init__(
        self, model: Mapping[str, Any], added: Sequence[Mapping[str, Any]], tokenizer: tokenizers.Tokenizer
    ) -> None:
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise CheckpointError(f"tokenizer.json: a BPE vocabulary with {name} cannot be trimmed")
        self._model = model
        self._ids: Mapping[str, int] = model["vocab"]
        self._merges = [_pair(merge) for merge in model["merges"]]
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        self.tokens: Sequence[str | None] = _by_id(self._ids, added)

    def essential(self) -> set[int]:
        """Characters or bytes, and the unknown token."""
        unknown = self._model.get("unk_token")
        return {
            row for token, row in self._ids.items() if len(token) == 1 or _BYTE.fullmatch(token) or token == unknown
        }

    def needs(self, row: int) -> set[int]:
        """What the token is merged from, all the way down."""
        return {self._ids[part] for part in self._derive(self.tokens[row]) or ()}

    def is_reachable(self, row: int) -> bool:
        """Whether merging its characters gives the token; or it is looked up whole."""
        return bool(self._model.get("ignore_merges")) or self._derive(self.tokens[row]) is not None

    def _derive(self, token: str | None) -> list[str] | None:
        """Everything that is made on the way from characters to the token; None if they end up as something else."""
        parts, made = list(token or ""), list(token or "")
        if any(part not in self._ids for part in parts):
            return None
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, len(self._merges)) for pair in itertools.pairwise(parts)]
            at = ranks.index(min(ranks))
            if ranks[at] == len(self._merges):
                return None
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            made.append(parts[at])
        return made

    def cut(self, new_ids: NewIds) -> dict[str, Any]:
        """The same model with fewer tokens and the merges among them."""
        kept = {token: new_ids[row] for token, row in self._ids.items() if row in new_ids}
        merges = [
            merge
            for merge, (a, b) in zip(self._model["merges"], self._merges, strict=True)
            if a in kept and b in kept and a + b in kept
        ]
        return {**self._model, "vocab": kept, "merges": merges}


class Unigram:
    """SentencePiece's vocabulary: the likeliest of all segmentations (arXiv:1804.10959).

    If all tokens of the likeliest one are kept it is still the likeliest. An unknown character costs ten more than the
    least likely token, which therefore stays.
    """

    def __init__(
        self, model: Mapping[str, Any], added: Sequence[Mapping[str, Any]], tokenizer: tokenizers.Tokenizer
    ) -> None:
        self._model = model
        self._entries: Sequence[tuple[str, float]] = model["vocab"]
        self.tokens: Sequence[str | None] = _by_id({token: row for row, (token, _) in enumerate(self._entries)}, added)

    def essential(self) -> set[int]:
        """Characters, bytes, the unknown token and the least likely one."""
        found = {row for row, (token, _) in enumerate(self._entries) if len(token) == 1 or _BYTE.fullmatch(token)}
        scores = [score for _, score in self._entries]
        found.add(scores.index(min(scores)))
        return found if self._model.get("unk_id") is None else found | {self._model["unk_id"]}

    def needs(self, row: int) -> set[int]:
        """Nothing: a token is weighed whole."""
        return set()

    def is_reachable(self, row: int) -> bool:
        """Any may be part of the likeliest segmentation of some text."""
        return True

    def cut(self, new_ids: NewIds) -> dict[str, Any]:
        """The same model with fewer tokens."""
        unknown = self._model.get("unk_id")
        return {
            **self._model,
            "vocab": [list(entry) for row, entry in enumerate(self._entries) if row in new_ids],
            "unk_id": None if unknown is None else new_ids[unknown],
        }


KINDS: Mapping[str, Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], tokenizers.Tokenizer], Kind]] = {
    "WordPiece": WordPiece,
    "BPE": Bpe,
    "Unigram": Unigram,
}


def _by_id(ids: Mapping[str, int], added: Sequence[Mapping[str, Any]]) -> list[str | None]:
    names = {row: token for token, row in ids.items()} | {int(token["id"]): str(token["content"]) for token in added}
    return [names.get(row) for row in range(max(names) + 1)]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    a, b = merge.split(" ") if isinstance(merge, str) else merge
    return a, b
