"""Trims a checkpoint's vocabulary: fewer rows in the embedding table, the same vectors for texts whose rows are kept.

Any text that tokenised before still does, since single characters (bytes, in a byte-level vocabulary) always stay: a word
whose token went is read in smaller pieces. Idea and proof as in vocabulary trimming for multilingual models (Ushio et al.,
arXiv:2305.15020), here for any corpus. What each kind of vocabulary needs to stay exact is in ``vocabulary_kinds``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whit.export.checkpoint import Checkpoint, FloatArray, Tensors, read_checkpoint
from whit.export.derive import check_out, derive_checkpoint
from whit.export.errors import CheckpointError, OptionError
from whit.export.families import encoder_weights
from whit.export.modules import encoder_folder
from whit.export.sharing import needed, share_rows
from whit.export.splitting import splitting_costs, worth
from whit.export.texts import read_texts
from whit.export.vocabulary_kinds import KINDS, Kind

Progress = Callable[[str, int, int], None]

# Tensors with a row a token: the embedding table, and the output heads that pre-training leaves in some checkpoints.
_WORDS = "word_embeddings.weight"
_OUTPUTS = (
    "predictions.bias",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "vocab_projector.weight",
    "vocab_projector.bias",
)
_BATCH = 4096  # texts tokenised at a time
_PROOF_TEXTS = 2000


@dataclass(frozen=True, slots=True)
class TrimOptions:
    """What to keep.

    ``corpus``: a text file (one text a line) whose tokens are kept; None: every token that some text can produce.
    ``size``: the most rows to keep, those of most worth to the corpus (``splitting``); None: all that occur in it.
    ``share``: with ``size``, a token without a row of its own stays and reads that of the token most like it (``sharing``).
    """

    corpus: Path | None = None
    size: int | None = None
    share: bool = False


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What trimming did. Shares are of the corpus, 1.0 without one."""

    token_count_before: int
    token_count: int
    row_count: int  # fewer than tokens where these share rows
    token_share: float  # of all tokens in the corpus, those that are still read as they were
    text_share: float  # of all texts in the corpus, those whose vector is still the same
    length_ratio: float  # tokens of the corpus now over before, on a sample


def trim_vocabulary(source: Path, out: Path, options: TrimOptions, progress: Progress = lambda *_: None) -> TrimReport:
    """Writes ``out``: the checkpoint ``source`` with a smaller vocabulary.

    Raises:
        CheckpointError: checkpoint, corpus or size cannot be used, or ``out`` cannot be written. Says what to do.
    """
    if options.size is not None and options.corpus is None:
        raise CheckpointError("size without a corpus says nothing about which tokens to keep; give a corpus")
    if options.share and options.size is None:
        raise OptionError("share", "needs a size: how many rows the tokens share")
    check_out(out, source)
    checkpoint = read_checkpoint(source)
    encoder_weights(checkpoint)  # what cannot be compiled is refused now
    content = json.loads((encoder_folder(source) / "tokenizer.json").read_text(encoding="utf-8"))
    kind = _kind_of(content, checkpoint)
    texts = read_texts(options.corpus) if options.corpus else []
    encoded = _encode(checkpoint.tokenizer, texts, progress)
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *encoded]), minlength=len(kind.tokens))

    essential = _essential(kind, content, checkpoint)
    kept = _choose(kind, essential, counts, options)
    rows = kept  # for each token that stays, the one whose row it reads
    if options.size is not None and kept != (all_of_use := _choose(kind, essential, counts, TrimOptions())):
        if options.share:
            usable = np.zeros(len(kind.tokens), bool)
            usable[list(set(all_of_use) - essential)] = True
            kept = all_of_use
            rows = share_rows(checkpoint, kept, essential, needed(counts, usable), options.size, progress)
        else:
            # Half of the room goes by frequency, the other half by what a split into these would cost.
            frequent = _choose(kind, essential, counts, replace(options, size=max(options.size // 2, len(essential))))
            reader = _as_read(_trimmed_tokenizer(content, kind, _new_ids(frequent)), checkpoint.tokenizer)
            costs = splitting_costs(checkpoint, reader, frequent, len(kind.tokens), progress)
            rows = kept = _choose(kind, essential, worth(counts, costs), options)
    new_ids = _new_ids(kept)
    _check_padding(checkpoint, new_ids)
    tokenizer = _trimmed_tokenizer(content, kind, new_ids)
    length_ratio = _prove(checkpoint.tokenizer, tokenizer, texts[:_PROOF_TEXTS], encoded[:_PROOF_TEXTS], kept)

    is_kept = np.zeros(len(kind.tokens), bool)
    is_kept[rows] = True
    report = TrimReport(
        token_count_before=len(kind.tokens),
        token_count=len(kept),
        row_count=int(is_kept.sum()),
        token_share=round(float(counts[is_kept].sum() / max(counts.sum(), 1)), 6) if texts else 1.0,
        text_share=round(float(np.mean([is_kept[ids].all() for ids in encoded])), 6) if texts else 1.0,
        length_ratio=round(length_ratio, 6),
    )
    counted = {"corpus_text_count": len(texts), "token_count": len(kept), "row_count": report.row_count}
    derive_checkpoint(
        source,
        out,
        tensors=_trimmed_tensors(checkpoint.tensors, kept, rows),
        config=_trimmed_config(checkpoint.config, new_ids),
        tokenizer=tokenizer,
        keep_rounding=True,
        step={"step": "trim", "size": options.size, "share": options.share, **counted},
    )
    return report


def _kind_of(content: Mapping[str, Any], checkpoint: Checkpoint) -> Kind:
    name = str(content["model"].get("type"))
    if name not in KINDS:
        raise CheckpointError(
            f"tokenizer.json: a vocabulary of type {name!r} cannot be trimmed, only {', '.join(KINDS)}"
        )
    return KINDS[name](content["model"], content.get("added_tokens", []), checkpoint.tokenizer)


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], progress: Progress) -> list[NDArray[np.int32]]:
    found: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), _BATCH):
        encodings = tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]))
        found += [np.array(encoding.ids, np.int32) for encoding in encodings]
        progress("trim (texts)", len(found), len(texts))
    return found


def _essential(kind: Kind, content: Mapping[str, Any], checkpoint: Checkpoint) -> set[int]:
    """Tokens that must stay: the kind's own, added tokens, all that tokenizer.json or config.json names, what these need."""
    named = {row for value in _token_id_fields(checkpoint.config).values() for row in _as_list(value)}
    named |= set(checkpoint.tokenizer.encode("").ids)  # what the post-processor adds
    added = {int(token["id"]) for token in content.get("added_tokens", [])}
    found = kind.essential() | added | {row for row in named if row < len(kind.tokens)}
    return found.union(*(kind.needs(row) for row in found))


def _choose(
    kind: Kind, essential: set[int], worth: NDArray[np.int64] | NDArray[np.float64], options: TrimOptions
) -> list[int]:
    """Ids to keep, those of most worth first; ascending, so that the tokens keep their order and those at the front their ids."""
    kept = set(essential)
    size = len(kind.tokens) if options.size is None else options.size
    if size < len(kept):
        raise OptionError(
            "size", f"must be at least {len(kept)}, got {size}: special tokens and single characters are always kept"
        )
    only_seen = options.corpus is not None and options.size is None
    for row in np.argsort(-worth, kind="stable").tolist():
        if only_seen and worth[row] == 0:
            break
        if row in kept or kind.tokens[row] is None or not kind.is_reachable(row):
            continue
        group = {row} | kind.needs(row)
        if len(kept | group) <= size:
            kept |= group
    return sorted(kept)


def _check_padding(checkpoint: Checkpoint, new_ids: Mapping[int, int]) -> None:
    """RoBERTa counts positions from the padding row: another row would move every position."""
    pad = checkpoint.config.get("pad_token_id")
    if "roberta" in checkpoint.model_type and pad is not None and new_ids[pad] != pad:
        raise CheckpointError(
            f"config.json: pad_token_id {pad} would become {new_ids[pad]}, which moves every position of a "
            f"{checkpoint.model_type} model; this vocabulary cannot be trimmed"
        )


def _trimmed_tokenizer(content: Mapping[str, Any], kind: Kind, new_ids: Mapping[int, int]) -> tokenizers.Tokenizer:
    changed = {
        **content,
        "model": kind.cut(new_ids),
        "added_tokens": [token | {"id": new_ids[token["id"]]} for token in content.get("added_tokens", [])],
        "post_processor": _trimmed_processor(content.get("post_processor"), new_ids),
    }
    if content.get("padding"):
        changed["padding"] = content["padding"] | {"pad_id": new_ids[content["padding"]["pad_id"]]}
    return tokenizers.Tokenizer.from_str(json.dumps(changed))


def _trimmed_processor(processor: Any, new_ids: Mapping[int, int]) -> Any:
    match processor:
        case {"type": "Sequence", "processors": processors}:
            return processor | {"processors": [_trimmed_processor(inner, new_ids) for inner in processors]}
        case {"type": "TemplateProcessing", "special_tokens": tokens}:
            moved = {name: token | {"ids": [new_ids[row] for row in token["ids"]]} for name, token in tokens.items()}
            return processor | {"special_tokens": moved}
        case {"sep": [sep, sep_id], "cls": [cls, cls_id]}:  # BertProcessing, RobertaProcessing
            return processor | {"sep": [sep, new_ids[sep_id]], "cls": [cls, new_ids[cls_id]]}
        case _:
            return processor


def _prove(
    before: tokenizers.Tokenizer,
    after: tokenizers.Tokenizer,
    texts: Sequence[str],
    encoded: Sequence[NDArray[np.int32]],
    kept: Sequence[int],
) -> float:
    """Holds the new tokenizer to its promise on real texts; returns how much longer they became."""
    names = before.get_vocab(with_added_tokens=True)
    if any(names.get(token) != kept[row] for token, row in after.get_vocab(with_added_tokens=True).items()):
        raise CheckpointError("tokenizer.json: its added tokens lie between the others, which whit cannot trim")
    after = _as_read(after, before)
    old_ids, is_kept = np.array(kept), set(kept)
    length_before = length_after = 0
    for text, ids, encoding in zip(texts, encoded, after.encode_batch_fast(list(texts)), strict=True):
        length_before, length_after = length_before + len(ids), length_after + len(encoding.ids)
        if is_kept.issuperset(ids.tolist()) and not np.array_equal(old_ids[encoding.ids], ids):
            raise CheckpointError(
                f"the trimmed tokenizer reads {text!r} differently; please report this tokenizer.json"
            )
    return length_after / length_before if length_before else 1.0


def _as_read(tokenizer: tokenizers.Tokenizer, before: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer as a checkpoint is read with it: without limits, and with its ``do_lower_case``."""
    found = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    found.no_truncation()
    found.no_padding()
    if before.normalizer is not None:
        found.normalizer = before.normalizer
    return found


def _new_ids(kept: Sequence[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(kept)}


def _trimmed_tensors(tensors: Tensors, kept: Sequence[int], rows: Sequence[int]) -> Tensors:
    def cut(name: str, array: FloatArray) -> FloatArray:
        if name.endswith(_WORDS):
            return array[list(rows)]
        return array[list(kept)] if name.endswith(_OUTPUTS) else array

    return {name: cut(name, array) for name, array in tensors.items()}


def _trimmed_config(config: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    moved = {
        key: [new_ids[row] for row in value] if isinstance(value, list) else new_ids.get(value, value)
        for key, value in _token_id_fields(config).items()
    }
    return moved | {"vocab_size": len(new_ids)}


def _token_id_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list) else [int(value)]
