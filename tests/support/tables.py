"""Tiny static packages, written by hand: the rows are known, so what a text's vector must be is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.support.tiny import vocabulary
from whit.contract.manifest import KINDS, NGRAM_VERSION, STATIC, TABLE_FILE, TOKENIZER_FILE, Manifest
from whit.export.sealing import file_hashes, seal
from whit.runtime.package import Package

DIMENSION_COUNT = 12
TOKENS = list(vocabulary())


def rows(seed: int = 0) -> NDArray[np.float32]:
    """A table of small whole numbers, float32 [len(TOKENS), DIMENSION_COUNT]: exact in every way of storing it."""
    return np.random.default_rng(seed).integers(-50, 51, (len(TOKENS), DIMENSION_COUNT)).astype(np.float32)


def tensors(dtype: str) -> dict[str, NDArray[Any]]:
    """``rows()`` as a table of this dtype; ``pq`` has rows of its own."""
    if dtype == "float16":
        return {"rows": rows().astype(np.float16)}
    if dtype == "int8":
        return {"rows": rows().astype(np.int8), "step": np.array(0.5, np.float32)}
    rng = np.random.default_rng(0)
    return {
        "codes": rng.integers(0, 256, (len(TOKENS), 3)).astype(np.uint8),
        "centroids": rng.integers(-127, 128, (3, 256, DIMENSION_COUNT // 3)).astype(np.int8),
        "lengths": rng.uniform(0.1, 1, len(TOKENS)).astype(np.float16),
    }


def write(directory: Path, dtype: str = "int8", *, table: dict[str, NDArray[Any]] | None = None, **fields: Any) -> Path:
    """A sealed static package; ``table`` replaces its tensors, ``fields`` those of its manifest; no tokenizer with ngrams."""
    save(directory, table or tensors(dtype))
    if "ngrams" not in fields:
        (directory / TOKENIZER_FILE).write_text(_tokenizer(), encoding="utf-8")
    settings: dict[str, Any] = {
        "name": "tiny-static",
        "architecture": "static",
        "dimension_count": DIMENSION_COUNT,
        "max_token_count": 64,
        "vocabulary_size": len(TOKENS),
        "pooling": "mean",
        "dtype": dtype,
        "files": file_hashes(directory),
        "kind": STATIC,
        "format_version": NGRAM_VERSION if "ngrams" in fields else KINDS[STATIC].format_version,
    }
    seal(Package(directory, Manifest(**(settings | fields))), {})
    return directory


def save(directory: Path, table: dict[str, NDArray[Any]]) -> None:
    """Writes the table alone."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(table, str(directory / TABLE_FILE))


def _tokenizer() -> str:
    model = {
        "type": "WordPiece",
        "vocab": vocabulary(),
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    content = {
        "version": "1.0",
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": model,
    }
    return json.dumps(content | {"added_tokens": [], "post_processor": None, "decoder": None})
