"""From the items of a call to checked token ids, and from vectors to what was asked for. Pure functions, run off the loop.

``check`` raises once nobody waits for the result.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whit.contract import vectors as codec
from whit.contract.errors import Problem, Reason
from whit.server.engine.jobs import Waiting
from whit.server.engine.lone import Size
from whit.server.engine.models import LoadedModel
from whit.server.engine.problems import bad_item, bad_option
from whit.server.engine.types import EmbedSpec, ItemOutcome, TokenIds

# English, where a tokenizer was made for it. Only words of a hundred letters have far fewer tokens than this says.
_CHARACTERS_A_TOKEN = 4

# Converting holds the interpreter's lock, in which a message of millions of token ids held up everybody for seconds.
_IDS_AT_A_TIME = 8192


class Reading(NamedTuple):
    """The items of a call, read: an outcome for each, and the sequences of the good ones by attention length."""

    items: list[ItemOutcome]
    groups: dict[int, deque[Waiting]]
    size: Size
    seconds: float


def likely_token_count(items: Sequence[Sequence[object]], maximum: int) -> int:
    """About how many tokens unread texts or token ids have; ``maximum`` of them are read of each.

    Quick, since under overload it is most of what is done with a call.
    """
    if not items:
        return 0
    unit, around = (_CHARACTERS_A_TOKEN, 2) if isinstance(items[0], str) else (1, 0)
    if around + max(map(len, items)) // unit <= maximum:
        return around * len(items) + sum(map(len, items)) // unit
    return sum(min(maximum, around + len(item) // unit) for item in items)


def check_spec(model: LoadedModel, spec: EmbedSpec) -> Problem | None:
    """Why a whole call cannot be served with these options, or None."""
    manifest = model.manifest
    if spec.dimension_count is not None and not 1 <= spec.dimension_count <= manifest.dimension_count:
        description = (
            f"must be 1 to {manifest.dimension_count}, the dimensions of model {model.id!r}; got {spec.dimension_count}"
        )
        return bad_option("dimension_count", description)
    layers_refused = layer_count_refusal(model, spec.layer_count) if spec.layer_count else ""
    if layers_refused:
        return bad_option("layer_count", layers_refused)
    if not spec.normalize and manifest.normalized:
        description = (
            f"the graph of model {model.id!r} gives vectors of length 1; leave normalize out or set it to true"
        )
        return bad_option("normalize", description)
    if not _is_encodable(spec.prompt):
        return bad_option("prompt", "has a lone surrogate, so it is not Unicode text; send valid text")
    return None


def layer_count_refusal(model: LoadedModel, layer_count: int) -> str:
    """Why a model cannot be run with so many layers, in words; "" if it can."""
    depths = model.manifest.layer_counts
    if layer_count == 0 or layer_count in depths:
        return ""
    if not depths:
        return (
            f"must be 0, for the package of model {model.id!r} is run with all its layers only; "
            f"export it with --depths to have a choice; got {layer_count}"
        )
    offered = ", ".join(map(str, depths))
    return f"must be one of {offered}, the layer counts of model {model.id!r}, or 0 for all; got {layer_count}"


def read_texts(
    model: LoadedModel,
    texts: Sequence[str],
    spec: EmbedSpec,
    *,
    text_byte_count: int,
    field: str,
    check: Callable[[], None] = lambda: None,
) -> Reading:
    """Checks and tokenises texts; ``text_byte_count`` bounds each in bytes of UTF-8, without the prompt.

    Only the empty string is refused as empty: white space and NUL bytes are text like any other.
    """
    start = time.perf_counter()
    bad = {
        row: problem for row, text in enumerate(texts) if (problem := _text_problem(text, text_byte_count, field, row))
    }
    good = [spec.prompt + text for row, text in enumerate(texts) if row not in bad]
    encoded = model.tokenizer.encode_each(good, check)
    read = (bad.get(row) or next(encoded) for row in range(len(texts))) if bad else encoded
    return _group(model, read, spec, field, start)


def read_token_ids(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    spec: EmbedSpec,
    *,
    field: str,
    check: Callable[[], None] = lambda: None,
) -> Reading:
    """Checks token ids, which hold their special tokens already."""
    start = time.perf_counter()
    read: list[TokenIds | Problem] = []
    for i, ids in enumerate(sequences):
        check()
        read.append(_check_token_ids(ids, model.manifest.vocabulary_size, f"{field}[{i}]", check))
    return _group(model, read, spec, field, start)


def needs_shaping(model: LoadedModel, spec: EmbedSpec) -> bool:
    """Whether the graph's own output is not yet what was asked for."""
    is_cut = spec.dimension_count not in (None, model.manifest.dimension_count)
    return is_cut or (spec.normalize and not model.manifest.normalized)


def shape(vectors: NDArray[np.float32], spec: EmbedSpec) -> NDArray[np.float32]:
    """Cuts float32 [n, D] to the dimensions asked for and scales rows to length 1 if asked; row by row the same result."""
    return codec.truncate(vectors, spec.dimension_count or vectors.shape[1], normalize=spec.normalize)


def _text_problem(text: str, text_byte_count: int, field: str, row: int) -> Problem | None:
    if 0 < len(text) <= text_byte_count and text.isascii():  # nearly all
        return None
    path = f"{field}[{row}]"
    if not text:
        return bad_item(Reason.EMPTY_TEXT, path, "is empty; leave it out or send at least one character")
    if len(text) <= text_byte_count:  # a character has at least one byte, so this spares encoding what is hopeless
        if not _is_encodable(text):
            return bad_item(
                Reason.INVALID_REQUEST, path, "has a lone surrogate, so it is not Unicode text; send valid text"
            )
        if len(text.encode()) <= text_byte_count:
            return None
    description = f"has more than {text_byte_count} bytes of UTF-8 (text_byte_count); send it in shorter pieces"
    return bad_item(Reason.TEXT_TOO_LONG, path, description)


def _check_token_ids(
    sequence: Sequence[int], vocabulary_size: int, field: str, check: Callable[[], None]
) -> TokenIds | Problem:
    if len(sequence) == 0:
        return bad_item(Reason.EMPTY_TEXT, field, "has no token ids; leave it out or send at least one")
    ids = np.empty(len(sequence), np.int64)
    for start in range(0, len(sequence), _IDS_AT_A_TIME):
        check()
        part = sequence[start : start + _IDS_AT_A_TIME]
        low, high = min(part), max(part)
        if low < 0 or high >= vocabulary_size:
            description = (
                f"token ids must be 0 to {vocabulary_size - 1}, got {low if low < 0 else high}; "
                "tokenise as this model's package does: with its tokenizer.json, or by the n-grams of its manifest"
            )
            return bad_item(Reason.INVALID_REQUEST, field, description)
        ids[start : start + len(part)] = part
    return ids


def _group(
    model: LoadedModel, read: Iterable[TokenIds | Problem], spec: EmbedSpec, field: str, start: float
) -> Reading:
    """Takes from ``read`` one at a time, and keeps of each what the model reads."""
    items: list[ItemOutcome] = []
    groups: dict[int, deque[Waiting]] = {}
    maximum, attention_length = model.manifest.max_token_count, model.encoder.attention_length
    sequence_count = token_count = cell_count = 0
    for row, ids in enumerate(read):
        if isinstance(ids, Problem):
            items.append(ItemOutcome(0, 0, truncated=False, problem=ids))
            continue
        used = ids
        if not 0 < len(ids) <= maximum:
            used, problem = _fit(model, ids, spec, f"{field}[{row}]")
            if problem is not None:
                items.append(ItemOutcome(len(ids), 0, truncated=False, problem=problem))
                continue
        items.append(ItemOutcome(len(ids), len(used), truncated=len(used) < len(ids)))
        length = attention_length(len(used))
        groups.setdefault(length, deque()).append(Waiting(row, used))
        sequence_count += 1
        token_count += len(used)
        cell_count += length * length
    size = Size(sequence_count, token_count, cell_count, len(groups))
    return Reading(items, groups, size, time.perf_counter() - start)


def _fit(model: LoadedModel, ids: TokenIds, spec: EmbedSpec, field: str) -> tuple[TokenIds, Problem | None]:
    """Of a text with no tokens, or with too many, what the model reads, or why it reads none of it."""
    maximum = model.manifest.max_token_count
    if len(ids) == 0:
        return ids, bad_item(Reason.EMPTY_TEXT, field, "has no tokens that the model knows; send other text")
    if spec.truncate:
        return model.tokenizer.cut(ids, maximum), None
    description = (
        f"has {len(ids)} tokens, model {model.id!r} reads at most {maximum}; "
        "shorten it, or ask for on_overflow=TRUNCATE to have only its beginning read"
    )
    return ids, bad_item(Reason.TEXT_TOO_LONG, field, description)


def _is_encodable(text: str) -> bool:
    if text.isascii():  # a flag of the string: free
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
