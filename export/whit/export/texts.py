"""Reads unlabelled text: for calibration, for trimming a vocabulary, for distilling."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from whit.export.errors import CheckpointError


def read_texts(path: Path, *, least: int = 1, limit: int | None = None, purpose: str = "corpus") -> list[str]:
    """The texts of a UTF-8 file, one a line, white-space lines left out; a name that ends in ``.gz`` is unpacked.

    Args:
        path: the file.
        least: fewer texts than this are refused.
        limit: read no more than the first so many; None: all.
        purpose: what the text is for, in the words of the error message.

    Raises:
        CheckpointError: the file cannot be read, is not UTF-8, or holds fewer than ``least`` texts.
    """
    texts: list[str] = []
    try:
        open_text = gzip.open if path.suffix == ".gz" else Path.open
        with open_text(path, "rt", encoding="utf-8-sig") as file:  # a byte order mark is no text
            for line in file:
                if len(texts) == limit:
                    break
                if text := line.strip():
                    texts.append(text)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:  # OSError: a folder, no such file, no gzip
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{purpose} {path} cannot be read ({why}); give a UTF-8 file, one text a line, plain or .gz"
        ) from None
    if len(texts) < least:
        raise CheckpointError(f"{purpose} {path} has {counted(len(texts))}; give at least {least}, one a line")
    return texts


def counted(text_count: int) -> str:
    """``1 text``, ``2 texts``."""
    return f"{text_count} {'text' if text_count == 1 else 'texts'}"
