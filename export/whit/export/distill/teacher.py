"""Teachers. whit's runtime computes their vectors, without torch; ``torch_teacher`` on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from whit.contract.manifest import MANIFEST_FILE
from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.compile import ExportOptions, Progress, compile_checkpoint
from whit.export.cosines import unit_rows
from whit.export.errors import CheckpointError
from whit.export.tokenless import encode_any
from whit.runtime.opening import open_encoder, open_tokenizer
from whit.runtime.package import Package, open_package

_TOKEN_BUDGET = 1024


def open_teacher(folder: Path, cache: Path, dtype: str, progress: Progress) -> Package:
    """Opens a package, or compiles a checkpoint folder into one below ``cache``: the runtime is faster than torch.

    Raises:
        CheckpointError: ``folder`` is neither, or cannot be compiled.
        PackageError: the package is damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        return open_package(folder)
    key = read_checkpoint(folder).sha256.removeprefix("sha256:")[:16]
    package = cache / f"teacher-{key}-{dtype}"
    if not (package / MANIFEST_FILE).is_file():
        try:
            compile_checkpoint(folder, package, ExportOptions(dtype=dtype, name=f"teacher-{key}"), progress)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace("--out", "--cache")) from error
    return open_package(package)


class Teacher(Protocol):
    """Whose vectors are learned."""

    fingerprint: str
    dimension_count: int
    max_token_count: int  # of a text that it can read

    def encode(self, texts: Sequence[str], max_token_count: int) -> FloatArray:
        """Vectors [len(texts), dimension_count] of texts that are cut at ``max_token_count``."""


class PackageTeacher:
    """A teacher that whit's runtime computes on the CPU."""

    def __init__(self, package: Package, threads: int = 1) -> None:
        self._tokenizer, self._encoder = open_tokenizer(package), open_encoder(package)
        self._threads = threads
        self.fingerprint = package.manifest.fingerprint
        self.dimension_count = package.manifest.dimension_count
        self.max_token_count = package.manifest.max_token_count

    def encode(self, texts: Sequence[str], max_token_count: int) -> FloatArray:
        """As ``Teacher.encode``."""
        sequences = [self._tokenizer.cut(ids, max_token_count) for ids in self._tokenizer.encode(texts)]
        with ThreadPoolExecutor(self._threads) as executor:
            return encode_any(
                self._encoder, sequences, self.dimension_count, token_budget=_TOKEN_BUDGET, executor=executor
            )


class JointTeacher:
    """Several teachers as one: their unit vectors side by side, so that its cosines are the means of theirs."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = teachers
        self.fingerprint = " and ".join(teacher.fingerprint for teacher in teachers)
        self.dimension_count = sum(teacher.dimension_count for teacher in teachers)
        self.max_token_count = min(teacher.max_token_count for teacher in teachers)

    def encode(self, texts: Sequence[str], max_token_count: int) -> FloatArray:
        """As ``Teacher.encode``; the vectors are of length 1."""
        found = [teacher.encode(texts, max_token_count) for teacher in self._teachers]
        units = [unit_rows(vectors) for vectors in found]
        return np.asarray(np.concatenate(units, axis=1) / np.sqrt(len(units)), np.float32)
