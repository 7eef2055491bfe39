"""Settings beside ``tokenizer.json`` that change how text is read, as transformers and sentence-transformers obey them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence

# Classes for which transformers takes tokenizer.json as it is.
_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")

# Settings of tokenizer_config.json -> what they are called in tokenizer.json.
_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def obey_config(tokenizer: Tokenizer, config: Mapping[str, Any]) -> list[str]:
    """Makes ``tokenizer`` read as ``tokenizer_config.json`` says; a sentence for each setting that was other before."""
    normalizer = tokenizer.normalizer
    if not isinstance(normalizer, BertNormalizer) or config.get("tokenizer_class") in _AS_IT_IS:
        return []
    notes = []
    for setting, name in _SETTINGS.items():
        stated, before = config.get(setting), getattr(normalizer, name)
        if isinstance(stated, bool) and stated != before:
            setattr(normalizer, name, stated)
            notes.append(
                f"tokenizer_config.json has {setting} {_in_json(stated)}, tokenizer.json has {name} {_in_json(before)}; "
                "the former counts, as in transformers"
            )
    return notes


def lower_case(tokenizer: Tokenizer) -> None:
    """What ``do_lower_case`` of ``sentence_bert_config.json`` does; it does not strip, so neither does whit."""
    before = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = Sequence([Lowercase(), *before])


def _in_json(value: bool | None) -> str:
    return {True: "true", False: "false", None: "null"}[value]
