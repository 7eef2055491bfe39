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

from whit.export.checkpoint import Checkpoint
from whit.export.compile import Progress
from whit.export.cosines import row_cosines
from whit.export.derive import check_out, derive_checkpoint
from whit.export.embed import embed
from whit.export.errors import CheckpointError
from whit.export.json_files import read_json
from whit.export.modules import encoder_folder
from whit.export.prune.subject import read_subject

_USUAL_NAMES: Mapping[str, Sequence[str]] = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_WITH_TYPES = ("bert", "electra")  # whose forward takes token_type_ids


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
        tokenizer_config=_tokenizer_config(encoder_folder(source), subject.checkpoint),
        step={"step": "drop_end_token", **asdict(report)},
        keep_rounding=True,
    )
    return report


def _tokenizer_config(folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What has transformers read ``tokenizer.json`` as it is: for an architecture's class it puts special tokens itself.

    The general class knows none of the names that such a class has by default.
    """
    stated = read_json(folder / "special_tokens_map.json", missing_ok=True)
    stated = stated | read_json(folder / "tokenizer_config.json", missing_ok=True)
    vocabulary = checkpoint.tokenizer.get_vocab(with_added_tokens=True)
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, names in _USUAL_NAMES.items():
        usual = next((name for name in names if name in vocabulary), None)
        if name := stated.get(role) or usual:
            found[role] = name
    if "model_input_names" not in stated:
        types = ["token_type_ids"] if checkpoint.model_type in _WITH_TYPES else []
        found["model_input_names"] = ["input_ids", *types, "attention_mask"]
    return found


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
            return _template(start, start_id, end, end_id, is_roberta=kind == "RobertaProcessing"), (end,)
        case _:
            return processor, ()


def _template(start: str, start_id: int, end: str, end_id: int, *, is_roberta: bool) -> Mapping[str, Any]:
    """A single text without its end; two texts as before: RoBERTa has two ends between them, and no second type."""
    end_count, second = (2, 0) if is_roberta else (1, 1)

    def special(name: str, type_id: int = 0) -> Mapping[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def text(name: str, type_id: int = 0) -> Mapping[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [special(start), text("A")],
        "pair": [special(start), text("A"), *[special(end)] * end_count, text("B", second), special(end, second)],
        "special_tokens": {
            name: {"id": name, "ids": [row], "tokens": [name]} for name, row in ((start, start_id), (end, end_id))
        },
    }


def _mean_length(sequences: Sequence[Sequence[int] | np.ndarray[Any, Any]]) -> float:
    return round(float(np.mean([len(ids) for ids in sequences])), 2)
