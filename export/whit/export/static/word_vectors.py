"""Word vectors that others trained, read from their files: word2vec text and binary, GloVe text, fastText text and binary.

In a fastText binary a word's vector is the mean of its own row and the rows of its character n-grams, which share a number
of buckets by a hash (Bojanowski et al., TACL 2017); words are read here with that done, exactly.
"""

from __future__ import annotations

import codecs
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from whit.export.checkpoint import FloatArray
from whit.export.errors import CheckpointError
from whit.runtime.ngrams import ngram_buckets

_FASTTEXT_MAGIC = 793_712_314
_FASTTEXT_VERSION = 12
_LONGEST_WORD = 1024  # bytes
_LONGEST_LINE = 1 << 20  # bytes
_MOST_VALUES = 1 << 33  # of a matrix; a header that promises more is damaged


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Words, most frequent first as such files have them, and their vectors float32 [len(words), D]."""

    words: list[str]
    vectors: FloatArray


def read_word_vectors(path: Path, limit: int | None = None) -> WordVectors:
    """Reads the first ``limit`` words of a file; None: all. The format is told by the file's first bytes.

    A word that is no UTF-8, empty, or there a second time is left out.

    Raises:
        CheckpointError: no such file, or it is cut short or of another format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            if len(head) == 4 and struct.unpack("<i", head)[0] == _FASTTEXT_MAGIC:
                pairs = _fasttext(file, limit)
            elif _is_binary(file):
                pairs = _word2vec(file, limit)
            else:
                pairs = _text(file, limit)
            found: dict[str, FloatArray] = {}
            for name, vector in pairs:
                word = name.decode("utf-8", errors="ignore")
                if not np.isfinite(vector).all():
                    raise ValueError(f"the vector of {word!r} has values that are not finite")
                if word.encode() == name and word:
                    found.setdefault(word, vector)
    except (OSError, ValueError, struct.error, OverflowError) as error:
        raise CheckpointError(
            f"{path} cannot be read as word vectors ({error}); give a word2vec, GloVe or fastText file, unpacked"
        ) from None
    if not found:
        raise CheckpointError(f"{path} holds no word vectors; give a word2vec, GloVe or fastText file, unpacked")
    return WordVectors(list(found), np.stack(list(found.values())))


def _is_binary(file: BinaryIO) -> bool:
    """Whether floats follow the first word as bytes, not as digits."""
    header = file.readline(_LONGEST_WORD).split()
    numbers = file.readline(_LONGEST_LINE).split()[1:][-3:]  # from the right: a word may have blanks in it
    file.seek(0)
    return len(header) == 2 and not (numbers and all(map(_is_number, numbers)))


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(file: BinaryIO, limit: int | None) -> Iterator[tuple[bytes, FloatArray]]:
    line = file.readline().removeprefix(codecs.BOM_UTF8)
    first, lines = line.split(), itertools.chain([line], file)
    count, size = None, len(first) - 1
    if len(first) == 2:  # GloVe has no header
        count, size = _checked(*(int(part) for part in first))
        limit = count if limit is None else min(count, limit)
        next(lines)
    start, number = 1 if count is None else 2, 0
    for number, line in enumerate(itertools.islice(lines, limit), start=1):
        at = f"line {start + number - 1}"
        # From the right: GloVe has words with blanks in them.
        word, *values = line.strip().rsplit(b" ", size)
        if len(values) != size or size < 1:
            raise ValueError(f"{at} has {len(values)} numbers, not {max(size, 1)}")
        try:
            yield word, np.array(values, np.float32)
        except ValueError as error:
            raise ValueError(f"{at} has what is no number ({error})") from None
    if limit is not None and count is not None and number < limit:
        raise ValueError(f"its header says {count} words, it ends after {number}")


def _word2vec(file: BinaryIO, limit: int | None) -> Iterator[tuple[bytes, FloatArray]]:
    count, size = _checked(*(int(part) for part in file.readline(_LONGEST_WORD).split()))
    for number in range(count if limit is None else min(count, limit)):
        word = _until(file, b" ").lstrip(b"\n")
        data = file.read(4 * size)
        if len(data) < 4 * size:
            raise ValueError(f"it ends in word {number + 1} of {count}")
        yield word, np.frombuffer(data, "<f4").astype(np.float32)


def _fasttext(file: BinaryIO, limit: int | None) -> Iterator[tuple[bytes, FloatArray]]:
    _, version = _unpack(file, "<2i")
    if version != _FASTTEXT_VERSION:
        raise ValueError(f"fastText format version {version}, whit reads {_FASTTEXT_VERSION}")
    arguments = _unpack(file, "<12id")
    bucket_count, shortest, longest = (int(arguments[i]) for i in (8, 9, 10))
    size, word_count, _, _, pruned = _unpack(file, "<3i2q")
    words: list[bytes] = []
    for _ in range(int(size)):
        name = _until(file, b"\0")
        _, kind = _unpack(file, "<qb")
        if kind == 0:
            words.append(name)
    if pruned >= 0 or _unpack(file, "<?")[0]:
        raise ValueError("a fastText model that was quantised has no vectors to read; use the model before that")
    row_count, column_count = _checked(*_unpack(file, "<2q"))
    if row_count < word_count + bucket_count * (longest > 0) or len(words) != word_count:
        raise ValueError(f"its matrix has {row_count} rows, fewer than its words and buckets")
    rows = np.memmap(file, "<f4", mode="r", offset=file.tell(), shape=(row_count, column_count))
    for number, word in enumerate(words[:limit]):
        buckets = [] if word == b"</s>" else ngram_buckets(word, shortest, longest, bucket_count)
        yield word, rows[[number, *(word_count + bucket for bucket in buckets)]].mean(axis=0, dtype=np.float32)


def _checked(rows: int, columns: int) -> tuple[int, int]:
    if rows < 1 or columns < 1 or rows * columns > _MOST_VALUES:
        raise ValueError(f"its header says {rows} words of {columns} values")
    return rows, columns


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    size = struct.calcsize(form)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends early")
    return struct.unpack(form, data)


def _until(file: BinaryIO, end: bytes) -> bytes:
    """The bytes up to ``end``, which is read too."""
    found = bytearray()
    while (byte := file.read(1)) != end:
        if not byte or len(found) > _LONGEST_WORD:
            raise ValueError("it ends in a word, or a word in it does not end")
        found += byte
    return bytes(found)
