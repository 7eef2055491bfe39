"""infinity in process with its optimum engine: its own batching in threads, at its default of 32 texts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from common import serve
from infinity_emb import EngineArgs, SyncEngineArray
from numpy.typing import NDArray


class Infinity:
    """Options: ``folder`` with the graph beside the tokenizer."""

    process_ids = ()

    def __init__(self, options: dict[str, Any]) -> None:
        os.chdir(
            options["folder"]
        )  # optimum takes the file's name relative to the folder, and infinity gives it the path
        arguments = EngineArgs(
            model_name_or_path=".",
            served_model_name="m",
            engine="optimum",
            device="cpu",
            pooling_method="mean",
            onnx_disable_optimize=True,  # it fails with this optimum, and infinity then goes on without
        )
        self._engines = SyncEngineArray.from_args([arguments])

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """As its documentation does it."""
        vectors, _ = self._engines.embed(model="m", sentences=texts).result()
        return np.stack(vectors).astype(np.float32)

    def close(self) -> None:
        """Ends its threads."""
        self._engines.stop()


serve(Infinity)
