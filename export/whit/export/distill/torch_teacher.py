"""A teacher that torch computes on a GPU, where whit's runtime would use the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.distill.batches import batches
from whit.export.distill.student import Student

_BATCH_TOKEN_COUNT = 32_768


class TorchTeacher:
    """A checkpoint folder as a ``whit.export.distill.teacher.Teacher``, on a GPU with products in bfloat16."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        checkpoint = read_checkpoint(folder)
        self._device = device
        self._model, self._tokenizer = Student(checkpoint, device), checkpoint.tokenizer
        for tensor in self._model.tensors.values():
            tensor.requires_grad_(False)
        # Its vectors are not the same to the bit as those of a package, so they are not kept under the same name.
        self.fingerprint = f"{checkpoint.sha256} {device.type}"
        self.dimension_count = self._model.dimension_count
        self.max_token_count = min(
            checkpoint.max_token_count or self._model.max_token_count, self._model.max_token_count
        )

    def encode(self, texts: Sequence[str], max_token_count: int) -> FloatArray:
        """As ``Teacher.encode``."""
        self._tokenizer.enable_truncation(max_token_count)
        sequences = [np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch_fast(list(texts))]
        found = np.empty((len(texts), self.dimension_count), np.float32)
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            for batch in batches([len(ids) for ids in sequences], _BATCH_TOKEN_COUNT, (0,)):
                found[batch] = self._model.encode([sequences[i] for i in batch]).vectors.cpu().numpy()
        return found
