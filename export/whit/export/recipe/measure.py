"""What each step of a recipe did to size, speed and accuracy: every checkpoint as a float32 package, and the package."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.export.compile import ExportOptions, calibration_texts, compile_checkpoint
from whit.export.evaluate import read_sts
from whit.export.evaluate.metrics import sts_score
from whit.export.report import rank_agreement
from whit.runtime.encoder import Encoder
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer

_ROUNDS = 5
_TIMED_TEXTS = 120


@dataclass(frozen=True, slots=True)
class Point:
    """One stage: the checkpoint, a step's outcome (both as float32 packages) or the package.

    ``speed_ratio`` is texts/s over those of the first stage, one thread, processor time, rounds in turns. ``agreement`` is
    the rank agreement x 100 with the first stage (``whit.export.report``). ``sts`` is Spearman x 100 on the recipe's
    sentence pairs, None if it names none.
    """

    name: str
    size_bytes: int
    speed_ratio: float
    agreement: float
    sts: float | None


def measure_stages(
    checkpoints: Mapping[str, Path], package: Path, sts: Path | None, progress: Callable[[str, int, int], None]
) -> list[Point]:
    """Measures all stages beside each other; the package is the last."""
    texts = calibration_texts(None)
    pairs = read_sts(sts) if sts else None
    with tempfile.TemporaryDirectory() as scratch:
        contenders: dict[str, _Contender] = {}
        for name, checkpoint in checkpoints.items():
            directory = Path(scratch, str(len(contenders)))
            compile_checkpoint(checkpoint, directory, ExportOptions(dtype="float32", name="stage"))
            contenders[name] = _Contender(open_package(directory))
        contenders[f"package ({open_package(package).manifest.dtype})"] = _Contender(open_package(package))
        speeds = _speeds(list(contenders.values()), texts[:_TIMED_TEXTS], progress)
        points = []
        first = None
        for (name, contender), speed in zip(contenders.items(), speeds, strict=True):
            vectors = contender.embed(texts)
            first = vectors if first is None else first
            score = None
            if pairs is not None:
                score = round(sts_score(contender.embed(pairs.first), contender.embed(pairs.second), pairs.scores), 3)
            points.append(
                Point(name, contender.size_bytes, round(speed, 3), round(rank_agreement(first, vectors), 3), score)
            )
            progress("measure (stages)", len(points), len(contenders))
    return points


class _Contender:
    """A package in process, one thread."""

    def __init__(self, package: Package) -> None:
        self._tokenizer, self._encoder = Tokenizer(package), Encoder(package)
        self.size_bytes = package.size_bytes

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1."""
        limit = self._encoder.manifest.max_token_count
        vectors = self._encoder.encode([self._tokenizer.cut(ids, limit) for ids in self._tokenizer.encode(texts)])
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        unit: NDArray[np.float32] = vectors / lengths
        return unit


def _speeds(
    contenders: Sequence[_Contender], texts: Sequence[str], progress: Callable[[str, int, int], None]
) -> list[float]:
    seconds = np.zeros((_ROUNDS, len(contenders)))
    for done in range(_ROUNDS):
        for i, contender in enumerate(contenders):
            start = time.process_time()
            contender.embed(texts)
            seconds[done, i] = time.process_time() - start
        progress("measure (rounds)", done + 1, _ROUNDS)
    ratios: list[float] = np.median(seconds[:, :1] / seconds, axis=0).tolist()
    return ratios
