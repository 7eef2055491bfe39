"""Teachers, and their vectors, kept on disk. whit's runtime computes them, without torch; ``torch_teacher`` on a GPU."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import MANIFEST_FILE
from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.compile import ExportOptions, Progress, compile_checkpoint
from whit.export.cosines import unit_rows
from whit.export.distill.topics import sketch
from whit.export.errors import CheckpointError
from whit.export.tokenless import encode_any
from whit.runtime.opening import open_encoder, open_tokenizer
from whit.runtime.package import Package, open_package

Indices = NDArray[np.int64]

_TOKEN_BUDGET = 1024
_ROWS = 1024  # computed before any of them is marked as done


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


class TeacherVectors:
    """Vectors of a teacher for a list of texts, computed when first asked for and kept on disk as float16.

    A row is marked as done after it was written, so a run that was cut off goes on where it was, and the next student
    of the same teacher and texts computes nothing.
    """

    def __init__(self, teacher: Teacher, texts: Sequence[str], cache: Path, *, max_token_count: int) -> None:
        self._teacher, self._texts = teacher, texts
        self._limit = min(max_token_count, teacher.max_token_count)
        self.dimension_count = teacher.dimension_count
        self.key = text_key(texts, f"{teacher.fingerprint} {self._limit}")  # names the texts and the teacher
        folder = cache / f"vectors-{self.key}"
        vectors, done = folder / "vectors.f16", folder / "done.u8"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shape = (len(texts), self.dimension_count)
            if not _is_whole(vectors, np.float16, shape):
                done.unlink(missing_ok=True)  # vectors removed or cut short: zeros would be learned in their place
            self._vectors = _open_rows(vectors, np.float16, shape)
            self._done = _open_rows(done, np.uint8, (len(texts),))
        except OSError as error:
            raise CheckpointError(
                f"teacher vectors cannot be kept in {folder} ({error.strerror or error}); free space or choose "
                "another --cache"
            ) from None

    def rows(self, indices: Indices, progress: Callable[[int], None] = lambda done: None) -> FloatArray:
        """Vectors of the texts with these indices, float32 [len(indices), dimension_count]."""
        missing = indices[self._done[indices] == 0]
        for start in range(0, len(missing), _ROWS):
            self._compute(missing[start : start + _ROWS])
            progress(start)
        return np.asarray(self._vectors[indices], np.float32)

    def sketches(self, indices: Indices, progress: Callable[[int], None] = lambda done: None) -> FloatArray:
        """Short vectors [len(indices), 64] that tell near from far. All vectors are computed, but not held in memory."""
        found: list[FloatArray] = []
        for start in range(0, len(indices), _ROWS):
            progress(start)
            found.append(sketch(self.rows(indices[start : start + _ROWS])))
        return np.concatenate(found)

    def _compute(self, indices: Indices) -> None:
        self._vectors[indices] = self._teacher.encode([self._texts[i] for i in indices], self._limit)
        self._vectors.flush()
        self._done[indices] = 1


def text_key(texts: Sequence[str], about: str = "") -> str:
    """Names a list of texts, and what was done ``about`` them."""
    digest = hashlib.sha256(f"{about}\n".encode())
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()[:24]


def _size(dtype: type, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _is_whole(path: Path, dtype: type, shape: tuple[int, ...]) -> bool:
    """Whether a file of rows is there, with room for all of them."""
    return path.is_file() and path.stat().st_size == _size(dtype, shape)


def _open_rows(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
    """A file of rows, zeros where it is new. Its space is taken at once: a full disk is an error here, not a crash later."""
    if not _is_whole(path, dtype, shape):
        size = _size(dtype, shape)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    return np.memmap(path, dtype, mode="r+", shape=shape)
