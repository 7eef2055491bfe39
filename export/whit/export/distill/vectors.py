"""The vectors of a teacher, kept on disk by the text that each belongs to."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from whit.export.checkpoint import FloatArray
from whit.export.distill.teacher import Teacher
from whit.export.distill.topics import Indices, sketch
from whit.export.errors import CheckpointError
from whit.export.sealing import why

_KEY_BYTES = 16
_ROWS = 1024  # computed before any of them is written
_MISSING = -1


class TeacherVectors:
    """Vectors of a teacher for a list of texts, computed when first asked for and kept on disk as float16.

    All lists of a teacher are kept in one file, by text. So a run that was cut off goes on where it was, the next student
    of the same teacher computes nothing, and a file of texts that is added costs its own texts only.
    """

    def __init__(self, teacher: Teacher, texts: Sequence[str], cache: Path, *, max_token_count: int) -> None:
        self._teacher, self._texts = teacher, texts
        self._limit = min(max_token_count, teacher.max_token_count)
        self.dimension_count = teacher.dimension_count
        reader = f"{teacher.fingerprint} {self._limit}"
        self.key = text_key(texts, reader)  # names the texts and the teacher
        self._store = RowStore(cache / f"vectors-{text_key((), reader)}.rows", teacher.dimension_count)
        self._keys = [hashlib.sha256(text.encode()).digest()[:_KEY_BYTES] for text in texts]
        self._places = self._store.find(self._keys)

    def rows(self, indices: Indices, progress: Callable[[int], None] = lambda done: None) -> FloatArray:
        """Vectors of the texts with these indices, float32 [len(indices), dimension_count].

        Raises:
            CheckpointError: the vectors cannot be kept.
        """
        missing = indices[self._places[indices] == _MISSING]
        for start in range(0, len(missing), _ROWS):
            self._compute(missing[start : start + _ROWS])
            progress(start)
        return self._store.rows(self._places[indices])

    def sketches(self, indices: Indices, progress: Callable[[int], None] = lambda done: None) -> FloatArray:
        """Short vectors [len(indices), 64] that tell near from far. All vectors are computed, but not held in memory."""
        found: list[FloatArray] = []
        for start in range(0, len(indices), _ROWS):
            progress(start)
            found.append(sketch(self.rows(indices[start : start + _ROWS])))
        return np.concatenate(found)

    def _compute(self, indices: Indices) -> None:
        self._places[indices] = self._store.find([self._keys[i] for i in indices])  # another run may have them by now
        missing = [i for i in indices if self._places[i] == _MISSING]
        if missing:
            keys = [self._keys[i] for i in missing]
            self._store.append(keys, self._teacher.encode([self._texts[i] for i in missing], self._limit))
            self._places[missing] = self._store.find(keys)


class RowStore:
    """Rows of float16 in a file that only grows, each after the 16 bytes that name it.

    Several processes may read and append: those that append take turns. What a crash or a full disk left of a record is
    not read, and the next to append cuts it off.
    """

    def __init__(self, path: Path, dimension_count: int) -> None:
        self._path = path
        self._record = np.dtype([("key", np.uint8, (_KEY_BYTES,)), ("row", "<f2", (dimension_count,))])
        self._records = np.empty(0, self._record)
        self._places: dict[bytes, int] = {}
        self._append(b"")  # a folder that cannot be written is an error now, not after the first thousand texts

    def find(self, keys: Sequence[bytes]) -> Indices:
        """Where the rows of these keys are, -1 for those that are not there."""
        self._read()
        return np.fromiter((self._places.get(key, _MISSING) for key in keys), np.int64, len(keys))

    def rows(self, places: Indices) -> FloatArray:
        """The rows at these places, float32 [len(places), dimension_count]."""
        return np.asarray(self._records["row"][places], np.float32)

    def append(self, keys: Sequence[bytes], rows: FloatArray) -> None:
        """Writes rows [len(keys), dimension_count] to the end of the file.

        Raises:
            CheckpointError: they cannot be written.
        """
        records = np.empty(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        records["row"] = rows
        self._append(records.tobytes())

    def _append(self, records: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                size = file.seek(0, os.SEEK_END)
                file.truncate(size - size % self._record.itemsize)
                file.write(records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"teacher vectors cannot be kept in {self._path.parent} ({why(error)}); free space or choose another --cache"
            ) from None

    def _read(self) -> None:
        """Takes in what was appended since the last time."""
        count = self._path.stat().st_size // self._record.itemsize if self._path.exists() else 0
        known = len(self._records)
        if count < known:
            raise CheckpointError(f"{self._path} was cut short while it was used; run again")
        if count > known:
            self._records = np.memmap(self._path, self._record, mode="r", shape=(count,))
            keys = self._records["key"][known:].tobytes()
            self._places |= {keys[i * _KEY_BYTES : (i + 1) * _KEY_BYTES]: known + i for i in range(count - known)}


def text_key(texts: Sequence[str], about: str = "") -> str:
    """Names a list of texts, and what was done ``about`` them."""
    digest = hashlib.sha256(f"{about}\n".encode())
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()[:24]
