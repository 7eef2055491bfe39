"""The model inside MLServer: tokenizer, onnxruntime, pooling. As many calls at a time as there are cores, one thread each."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from numpy.typing import NDArray
from tokenizers import Tokenizer


class Embedder(MLModel):
    """One BYTES input of texts, one FP32 output [texts, dimensions]; a request is one padded batch."""

    async def load(self) -> bool:
        """Opens the model named by the settings' ``uri``."""
        path = Path(self.settings.parameters.uri)
        self._tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
        self._tokenizer.enable_truncation(int(os.environ["EMBEDDER_MAX_TOKENS"]))
        self._tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [port.name for port in self._session.get_inputs()]
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Vectors of the texts."""
        texts = StringCodec.decode_input(payload.inputs[0])
        vectors = await asyncio.get_running_loop().run_in_executor(self._pool, self._embed, texts)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("vectors", vectors)])

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self._tokenizer.encode_batch_fast(texts)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        tokens = self._session.run(None, {name: every[name] for name in self._names})[0]
        weights = mask[:, :, None].astype(np.float32)
        mean = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)
