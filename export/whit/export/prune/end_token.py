"""Leaves out the special token behind a text, such as BERT's ``[SEP]``: a sentence of ten tokens is run as nine.

What stands before a text, such as ``[CLS]``, stays: attention that finds nothing goes there. docs/pruning.md has what either
costs without training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from whit.export.compile import Progress
from whit.export.cosines import row_cosines
from whit.export.derive import check_out, derive_checkpoint
from whit.export.embed import embed
from whit.export.errors import CheckpointError
from whit.export.prune.subject import read_subject


@dataclass(frozen=True, slots=True)
class EndTokenOptions:
    """``calibration``: texts on which the change is measured; None: those that ship with whit."""

    calibration: Path | None = None


@dataclass(frozen=True, slots=True)
class EndTokenReport:
    """What leaving the token out did. Counts are means, and cosines compare vectors, over the calibration texts."""

    dropped: tuple[str, ...]
    token_count_before: float
    token_count: float
    mean_cosine: float
    min_cosine: float


def drop_end_token(
    source: Path, out: Path, options: EndTokenOptions, progress: Progress = lambda *_: None
) -> EndTokenReport:
    """Writes ``out``: the checkpoint ``source`` with a tokenizer that puts no special token after a text.

    Raises:
        CheckpointError: the tokenizer puts none there, the checkpoint or the calibration text cannot be used, or ``out``
            cannot be written.
    """
    check_out(out, source)
    subject = read_subject(source, options.calibration)
    tokenizer = subject.checkpoint.tokenizer
    content = json.loads(tokenizer.to_str())
    processor, dropped = _without_end(content.get("post_processor"))
    if not dropped:
        raise CheckpointError(
            f"{source}: its tokenizer puts no special token after a text, so there is none to leave out"
        )
    before = subject.token_ids(subject.texts)
    progress("leave out the end token", 0, 1)
    changed = tokenizers.Tokenizer.from_str(json.dumps(content | {"post_processor": processor}))
    tokenizer.post_processor = changed.post_processor
    after = subject.token_ids(subject.texts)
    same = row_cosines(*(embed(subject.weights, subject.head, sequences) for sequences in (before, after)))
    progress("leave out the end token", 1, 1)
    report = EndTokenReport(
        dropped=dropped,
        token_count_before=_mean_length(before),
        token_count=_mean_length(after),
        mean_cosine=float(same.mean()),
        min_cosine=float(same.min()),
    )
    tokenizer.no_truncation()
    derive_checkpoint(
        source,
        out,
        tensors=subject.checkpoint.tensors,
        tokenizer=tokenizer,
        # For the class of an architecture transformers puts special tokens itself, whatever tokenizer.json says.
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
        step={"step": "drop_end_token", **asdict(report)},
        keep_rounding=True,
    )
    return report


def _without_end(processor: Any) -> tuple[Any, tuple[str, ...]]:
    """A post-processor that puts nothing after a single text, and what the given one puts there."""
    match processor:
        case {"type": "Sequence", "processors": processors}:
            found = [_without_end(inner) for inner in processors]
            return processor | {"processors": [inner for inner, _ in found]}, tuple(
                name for _, names in found for name in names
            )
        case {"type": "TemplateProcessing", "single": single}:
            last = max(place for place, part in enumerate(single) if "Sequence" in part)
            return processor | {"single": single[: last + 1]}, tuple(
                part["SpecialToken"]["id"] for part in single[last + 1 :]
            )
        case {"type": "BertProcessing" | "RobertaProcessing" as kind, "sep": [end, end_id], "cls": [start, start_id]}:
            return _template(start, start_id, end, end_id, end_count=2 if kind == "RobertaProcessing" else 1), (end,)
        case _:
            return processor, ()


def _template(start: str, start_id: int, end: str, end_id: int, *, end_count: int) -> Mapping[str, Any]:
    """A single text without its end; two texts as before, ``end_count`` ends between them."""

    def special(name: str, type_id: int = 0) -> Mapping[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def text(name: str, type_id: int = 0) -> Mapping[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [special(start), text("A")],
        "pair": [special(start), text("A"), *[special(end)] * end_count, text("B", 1), special(end, 1)],
        "special_tokens": {
            name: {"id": name, "ids": [row], "tokens": [name]} for name, row in ((start, start_id), (end, end_id))
        },
    }


def _mean_length(sequences: Sequence[Sequence[int] | np.ndarray[Any, Any]]) -> float:
    return round(float(np.mean([len(ids) for ids in sequences])), 2)
