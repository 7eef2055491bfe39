"""What each step of a recipe did to size, speed and accuracy: every checkpoint as a float32 package, and the package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whit.contract.manifest import STATIC
from whit.export.compile import ExportOptions, calibration_texts, compile_checkpoint
from whit.export.evaluate import read_sts, sts_score
from whit.export.evaluate.model import Model
from whit.export.report import rank_agreement
from whit.runtime.package import open_package

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
    made = open_package(package).manifest
    pooling = None if made.kind == STATIC else made.pooling  # of a folder that does not say, its steps and [export] do
    with tempfile.TemporaryDirectory() as scratch:
        models: list[Model] = []
        for name, checkpoint in checkpoints.items():
            directory = Path(scratch, str(len(models)))
            compile_checkpoint(checkpoint, directory, ExportOptions(dtype="float32", name="stage", pooling=pooling))
            models.append(Model(directory, name=name, threads=1))
        models.append(Model(package, name=f"package ({made.dtype})", threads=1))
        speeds = _speed_ratios(models, texts[:_TIMED_TEXTS], progress)
        points: list[Point] = []
        for model, speed in zip(models, speeds, strict=True):
            score = sts_score(model.embed(pairs.first), model.embed(pairs.second), pairs.scores) if pairs else None
            points.append(
                Point(
                    name=model.name,
                    size_bytes=model.package.size_bytes,
                    speed_ratio=round(speed, 3),
                    agreement=round(rank_agreement(models[0].embed(texts), model.embed(texts)), 3),
                    sts=None if score is None else round(score, 3),
                )
            )
            progress("measure (stages)", len(points), len(models))
    return points


def _speed_ratios(
    models: Sequence[Model], texts: Sequence[str], progress: Callable[[str, int, int], None]
) -> list[float]:
    seconds = np.zeros((_ROUNDS, len(models)))
    for done in range(_ROUNDS):
        seconds[done] = [model.cpu_and_wall_seconds(texts)[0] for model in models]
        progress("measure (rounds)", done + 1, _ROUNDS)
    ratios: list[float] = np.median(seconds[:, :1] / seconds, axis=0).tolist()
    return ratios
