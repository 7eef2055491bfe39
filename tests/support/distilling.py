"""What tests of distillation share: texts, options for a short run, and the vectors of what came out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny import vocabulary
from whit.export.checkpoint import FloatArray
from whit.export.distill.options import DistillOptions
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer


def sentences(count: int, seed: int) -> list[str]:
    """Two to eight words of the tiny vocabulary each."""
    random = np.random.default_rng(seed)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    return [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(count)]


def short_run(folder: Path, **changes: Any) -> DistillOptions:
    """A run on ``texts.txt`` in ``folder``, taught by the checkpoint ``model`` there."""
    plain = DistillOptions(
        teacher=folder / "model",
        texts=(folder / "texts.txt",),
        cache=folder / "cache",
        epochs=4,
        learning_rate=1e-3,
        batch_token_count=256,
        precision="float32",
        threads=1,
    )
    return replace(plain, **changes)


def vectors(package: Path, texts: list[str]) -> FloatArray:
    """What the runtime makes of the texts."""
    opened = open_package(package)
    return Encoder(opened).encode(Tokenizer(opened).encode(texts))
