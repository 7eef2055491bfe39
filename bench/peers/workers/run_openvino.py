"""OpenVINO with the graph that NNCF quantised: texts sorted by length, padded batches of 32, one stream on all cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from common import InProcess, serve
from numpy.typing import NDArray
from tokenizers import Tokenizer


class OpenVino(InProcess):
    """Options: ``model``, an .xml file; ``folder`` of the tokenizer; ``batch_size``; ``max_tokens``."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(options["folder"]) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(options["max_tokens"])
        threads = len(os.sched_getaffinity(0))
        settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
        core = openvino.Core()
        self._model = core.compile_model(core.read_model(options["model"]), "CPU", settings)
        self._names = [port.any_name for port in self._model.inputs]
        self._batch_size = options["batch_size"]

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Mean of the token vectors, normalised, in the order given."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.empty((len(ids), 384), np.float32)
        for at in range(0, len(order), self._batch_size):
            rows = order[at : at + self._batch_size]
            vectors[rows] = self._run([ids[i] for i in rows])
        return vectors

    def _run(self, batch: list[list[int]]) -> NDArray[np.float32]:
        padded = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(padded)
        for row, ids in enumerate(batch):
            padded[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        every = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
        tokens = self._model([every[name] for name in self._names])[0]
        weights = mask[:, :, None].astype(np.float32)
        mean = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


serve(OpenVino)
