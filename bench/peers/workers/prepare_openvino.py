"""Quantises the exported float graph with NNCF: static int8 for transformers, calibrated on the texts of a file, one a line.

python prepare_openvino.py FLAT_FOLDER TEXTS OUT.xml MAX_TOKENS
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
from tokenizers import Tokenizer


def main(folder: Path, texts: Path, out: Path, max_tokens: int) -> None:
    """Writes OUT.xml and OUT.bin."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    model = openvino.Core().read_model(folder / "model.onnx")
    names = [port.any_name for port in model.inputs]

    def feeds(text: str) -> dict[str, np.ndarray]:
        ids = np.array([tokenizer.encode(text).ids])
        every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: every[name] for name in names}

    lines = texts.read_text(encoding="utf-8").splitlines()
    quantized = nncf.quantize(
        model, nncf.Dataset(lines, feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(lines)
    )
    openvino.save_model(quantized, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
