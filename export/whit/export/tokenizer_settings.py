"""Settings beside ``tokenizer.json`` that change how text is read, as transformers and sentence-transformers obey them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence

from whit.export.errors import CheckpointError

# Classes for which transformers reads text by tokenizer_config.json alone, whatever normaliser is in tokenizer.json; with
# or without "Fast". For any other class it takes tokenizer.json as it is.
_BERT_CLASSES = frozenset(
    f"{name}Tokenizer"
    for name in ("Bert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MPNet", "MobileBert", "SqueezeBert")
)
# What has one of these classes where neither tokenizer_config.json nor config.json names a class.
_BERT_TYPES = ("bert", "distilbert", "electra", "mpnet")

# Settings of tokenizer_config.json -> what they are called in tokenizer.json, and what they are where they are not stated.
_SETTINGS: Mapping[str, tuple[str, bool | None]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),  # null: if lowercase is true
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def obey_config(tokenizer: Tokenizer, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Makes ``tokenizer`` read text as transformers does.

    Args:
        tokenizer: from ``tokenizer.json``; changed in place.
        tokenizer_config: ``tokenizer_config.json``; empty where there is none.
        config: ``config.json``, which says what kind of tokenizer it is where the former does not.

    Returns:
        A sentence for each setting that was other in ``tokenizer.json``.

    Raises:
        CheckpointError: a setting is not true or false.
    """
    if not _is_bert(tokenizer_config, config) or not isinstance(tokenizer.model, WordPiece):
        return []
    before = tokenizer.normalizer
    settings: dict[str, Any] = {name: _value(tokenizer_config, setting) for setting, (name, _) in _SETTINGS.items()}
    now = BertNormalizer(clean_text=True, **settings)
    tokenizer.normalizer = now
    if not isinstance(before, BertNormalizer):
        return [
            "tokenizer.json has another normalizer than BERT's, which does not count for this kind of tokenizer, as in transformers"
        ]
    return [
        f"tokenizer_config.json has {_said(tokenizer_config, setting)}, tokenizer.json has {name} "
        f"{_in_json(getattr(before, name))}; the former counts, as in transformers"
        for setting, (name, _) in _SETTINGS.items()
        if getattr(before, name) != getattr(now, name) and _effect(before, name) != _effect(now, name)
    ]


def _is_bert(tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    named = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    if named:
        return str(named).removesuffix("Fast") in _BERT_CLASSES
    return config.get("model_type") in _BERT_TYPES


def _value(tokenizer_config: Mapping[str, Any], setting: str) -> bool | None:
    _, default = _SETTINGS[setting]
    value = tokenizer_config.get(setting, default)
    if value is not default and not isinstance(value, bool):
        raise CheckpointError(
            f"tokenizer_config.json: {setting} must be true or false, got {value!r}; correct it there"
        )
    return value


def _said(tokenizer_config: Mapping[str, Any], setting: str) -> str:
    value = _in_json(_value(tokenizer_config, setting))
    return f"{setting} {value}" if setting in tokenizer_config else f"no {setting}, which means {value}"


def _effect(normalizer: BertNormalizer, name: str) -> bool | None:
    value: bool | None = getattr(normalizer, name)
    return normalizer.lowercase if value is None else value


def lower_case(tokenizer: Tokenizer) -> None:
    """What ``do_lower_case`` of ``sentence_bert_config.json`` does; it does not strip, so neither does whit."""
    before = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = Sequence([Lowercase(), *before])


def _in_json(value: bool | None) -> str:
    return {True: "true", False: "false", None: "null"}[value]
