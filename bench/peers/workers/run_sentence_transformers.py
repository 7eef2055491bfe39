"""sentence-transformers: torch, or an ONNX file with onnxruntime. ``encode`` sorts by length; its batch size is its default, 32."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import InProcess, serve
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer


class SentenceTransformers(InProcess):
    """Options: ``folder``; ``backend``, torch or onnx; ``file``, the ONNX file in the folder; ``max_tokens``."""

    def __init__(self, options: dict[str, Any]) -> None:
        onnx = {"provider": "CPUExecutionProvider", "file_name": options.get("file")}
        self._model = SentenceTransformer(
            options["folder"],
            device="cpu",
            backend=options["backend"],
            local_files_only=True,
            model_kwargs=onnx if options["backend"] == "onnx" else {},
        )
        self._model.max_seq_length = options["max_tokens"]

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """As its documentation does it."""
        vectors: NDArray[np.float32] = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors


serve(SentenceTransformers)
