"""Texts that the student reads and what the teacher reads in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whit.export.errors import CheckpointError
from whit.export.texts import read_texts


def read_pairs(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    """The texts of a UTF-8 file and their targets, one pair a line with a tab between, plain or .gz.

    The student learns ``teacher(target)`` for the text: what an expansion, a summary or a translation would have brought comes
    with the vector and is not computed again (SoftQE, arXiv:2402.12663; implicit summaries, arXiv:2402.13043; translations,
    arXiv:2004.09813).

    Raises:
        CheckpointError: the file cannot be read, or a line is no pair.
    """
    texts, targets = [], []
    for number, line in enumerate(read_texts(path, purpose="pairs"), start=1):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise CheckpointError(
                f"pairs {path}: pair {number} has {len(fields)} fields; give two texts with a tab between on each line"
            )
        texts.append(fields[0])
        targets.append(fields[1])
    return texts, targets
