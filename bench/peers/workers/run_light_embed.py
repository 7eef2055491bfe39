"""light-embed with a local ONNX file. It sorts by length; its batch size is its default, 32."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import InProcess, serve
from light_embed import TextEmbedding
from numpy.typing import NDArray


class LightEmbed(InProcess):
    """Options: ``folder``, whose tokenizer configuration cuts at the limit; ``file``."""

    def __init__(self, options: dict[str, Any]) -> None:
        config = {"onnx_file": options["file"], "pooling_mode": "mean", "normalize": True}
        self._model = TextEmbedding(options["folder"], model_config=config, device="cpu")

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """As its documentation does it."""
        return np.asarray(self._model.encode(texts), np.float32)


serve(LightEmbed)
