"""Word embeddings as the student's package will hold them, in fewer bits: what they lose the layers learn to make up for.

The student reads the rounded rows and its checkpoint keeps the exact ones, which ``whit export`` rounds to the same again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whit.export.checkpoint import Checkpoint, FloatArray
from whit.export.compile import ExportOptions, own_calibration, stored_words
from whit.export.embedding import looked_up


def rounded_words(
    checkpoint: Checkpoint, dtype: str, code_count: int | None, progress: Callable[[str, int, int], None]
) -> FloatArray:
    """The word embeddings [vocabulary, embedding] as they come out of the package that ``whit export`` would make.

    Product codes are chosen for the calibration text that ships with whit: an export with another one has others.

    Raises:
        OptionError: the table cannot be stored so.
    """
    basis = own_calibration(checkpoint, progress)
    rows = stored_words(basis, ExportOptions(embedding_dtype=dtype, embedding_code_count=code_count))
    return looked_up(rows, np.arange(len(basis.weights.words)))
