"""Word embeddings as the student's package will hold them, in fewer bits: what they lose the layers learn to make up for.

The student reads the rounded rows and its checkpoint keeps the exact ones, which ``whit export`` rounds to the same again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whit.export.calibrate import Calibration
from whit.export.checkpoint import Checkpoint, FloatArray
from whit.export.compile import ExportOptions, calibration_texts, stored_words
from whit.export.embedding import check_embedding, looked_up
from whit.export.encoder_graph import Head
from whit.export.families import encoder_weights


def rounded_words(
    checkpoint: Checkpoint, dtype: str, code_count: int | None, progress: Callable[[str, int, int], None]
) -> FloatArray:
    """The word embeddings [vocabulary, embedding] as they come out of the package that ``whit export`` would make.

    Product codes are chosen for the calibration text that ships with whit: an export with another one has others.

    Raises:
        OptionError: the table cannot be stored so.
    """
    weights = encoder_weights(checkpoint)
    check_embedding(dtype, code_count, weights.words.shape[1])
    encodings = checkpoint.tokenizer.encode_batch_fast(calibration_texts(None))
    sequences = [np.array(encoding.ids, np.int64) for encoding in encodings]
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    options = ExportOptions(embedding_dtype=dtype, embedding_code_count=code_count)
    rows = stored_words(Calibration(weights, head, sequences, progress), options)
    return looked_up(rows, np.arange(len(weights.words)))
