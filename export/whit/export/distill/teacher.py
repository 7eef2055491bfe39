"""The teacher: a package that the runtime computes without torch, and its vectors, kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import MANIFEST_FILE
from whit.export.checkpoint import CheckpointError, FloatArray, read_checkpoint
from whit.export.compile import ExportOptions, Progress, compile_checkpoint
from whit.runtime.opening import open_encoder
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer

Indices = NDArray[np.int64]

_TOKEN_BUDGET = 1024


def open_teacher(folder: Path, cache: Path, dtype: str, progress: Progress) -> Package:
    """Opens a package, or compiles a checkpoint folder into one below ``cache``: the runtime is faster than torch.

    Raises:
        CheckpointError: ``folder`` is neither, or cannot be compiled.
        PackageError: the package is damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        return open_package(folder)
    sha = read_checkpoint(folder).sha256.removeprefix("sha256:")[:16]
    package = cache / f"teacher-{sha}-{dtype}"
    if not (package / MANIFEST_FILE).is_file():
        compile_checkpoint(folder, package, ExportOptions(dtype=dtype, name=f"teacher-{sha}"), progress)
    return open_package(package)


class TeacherVectors:
    """Vectors of a teacher for a list of texts, computed when first asked for and kept on disk as float16.

    A row is marked as done after it was written, so a run that was cut off goes on where it was, and the next student
    of the same teacher and texts computes nothing.
    """

    def __init__(
        self, package: Package, texts: Sequence[str], cache: Path, *, max_token_count: int, threads: int = 1
    ) -> None:
        self._texts = texts
        self._tokenizer, self._encoder = Tokenizer(package), open_encoder(package)
        self._limit = min(max_token_count, package.manifest.max_token_count)
        self._threads = threads
        self.dimension_count = package.manifest.dimension_count
        self.key = _key(package, texts, self._limit)  # names the texts and the teacher
        folder = cache / f"vectors-{self.key}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._vectors = _open_rows(folder / "vectors.f16", np.float16, (len(texts), self.dimension_count))
            self._done = _open_rows(folder / "done.u8", np.uint8, (len(texts),))
        except OSError as error:
            raise CheckpointError(
                f"teacher vectors cannot be kept in {folder} ({error.strerror or error}); free space or choose "
                "another --cache"
            ) from None

    def rows(self, indices: Indices, progress: Callable[[int], None] = lambda done: None) -> FloatArray:
        """Vectors of the texts with these indices, float32 [len(indices), dimension_count]."""
        missing = indices[self._done[indices] == 0]
        for start in range(0, len(missing), 1024):
            self._compute(missing[start : start + 1024])
            progress(start)
        return np.asarray(self._vectors[indices], np.float32)

    def _compute(self, indices: Indices) -> None:
        encoded = self._tokenizer.encode([self._texts[i] for i in indices])
        sequences = [self._tokenizer.cut(ids, self._limit) for ids in encoded]
        with ThreadPoolExecutor(self._threads) as executor:
            vectors = self._encoder.encode(sequences, token_budget=_TOKEN_BUDGET, executor=executor)
        self._vectors[indices] = vectors
        self._vectors.flush()
        self._done[indices] = 1


def _key(package: Package, texts: Sequence[str], limit: int) -> str:
    digest = hashlib.sha256(f"{package.manifest.fingerprint} {limit}\n".encode())
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()[:24]


def _open_rows(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
    """A file of rows, zeros where it is new. Its space is taken at once: a full disk is an error here, not a crash later."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    return np.memmap(path, dtype, mode="r+", shape=shape)
