"""fastembed with a local ONNX file as a custom model. Batch size 16 is its best here: it pads and does not sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import InProcess, serve
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from numpy.typing import NDArray

NAME = "local/all-MiniLM-L6-v2"


class FastEmbed(InProcess):
    """Options: ``folder``, whose tokenizer configuration cuts at the limit; ``file``; ``batch_size``."""

    def __init__(self, options: dict[str, Any]) -> None:
        TextEmbedding.add_custom_model(
            model=NAME,
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=NAME),
            dim=384,
            model_file=options["file"],
        )
        self._model = TextEmbedding(NAME, specific_model_path=options["folder"])
        self._batch_size = options["batch_size"]

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """In the order given."""
        return np.stack(list(self._model.embed(texts, batch_size=self._batch_size))).astype(np.float32)


serve(FastEmbed)
