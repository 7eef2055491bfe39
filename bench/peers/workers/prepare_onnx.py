"""Exports the checkpoint with sentence-transformers and optimum, and quantises it as sentence-transformers documents it.

python prepare_onnx.py CHECKPOINT OUT MAX_TOKENS SCHEME  (SCHEME: avx2, avx512 or avx512_vnni)

OUT gets the sentence-transformers folder with ``onnx/`` in it, and ``flat/`` with both graphs beside the tokenizer for the tools that
want them so. The tokenizer's own limit becomes MAX_TOKENS, for the tools that know no other.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model


def main(checkpoint: str, out: Path, max_tokens: int, scheme: str) -> None:
    """Writes OUT."""
    model = SentenceTransformer(
        checkpoint,
        backend="onnx",
        local_files_only=True,
        model_kwargs={"provider": "CPUExecutionProvider", "export": True},
    )
    model.save_pretrained(str(out))
    export_dynamic_quantized_onnx_model(model, scheme, str(out))
    [quantized] = (out / "onnx").glob("model_q*.onnx")
    quantized.rename(out / "onnx" / "model_int8.onnx")
    flat = out / "flat"
    shutil.copytree(out / "onnx", flat)
    for path in out.glob("*.json"):
        shutil.copy(path, flat)
    _set(flat / "tokenizer_config.json", "model_max_length", max_tokens)
    _set(flat / "tokenizer_config.json", "max_length", max_tokens)  # else 128, and fastembed takes the lower one
    _set(flat / "config.json", "max_position_embeddings", max_tokens)


def _set(path: Path, key: str, value: int) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {key: value}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
