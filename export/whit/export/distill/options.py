"""What may be chosen about a distillation, and the rules for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whit.export.embedding import EMBEDDING_DTYPES
from whit.export.errors import OptionError

FREEZE = ("none", "words", "embeddings")
DECAYS = ("cosine", "linear")
PRECISIONS = ("auto", "float32", "bfloat16")
PROJECTIONS = ("pca", "learned")
SIMILARITY_LOSSES = ("squared", "margin", "kl")
TEACHER_DTYPES = ("float32", "int8")
STUDENT_EMBEDDING_DTYPES = ("float32", *EMBEDDING_DTYPES)


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """Options of ``distill``. The first group decides the result, the second only where and how it is computed."""

    teacher: Path  # a checkpoint folder, or a package that whit export made
    texts: tuple[Path, ...] = ()  # UTF-8 files, one text a line, plain or .gz
    pairs: tuple[Path, ...] = ()  # as texts, "TEXT<tab>TARGET": the student reads the one, the teacher the other
    other_teachers: tuple[Path, ...] = ()  # the student learns the mean of all teachers' cosines
    augment: bool = False  # also on spans of passages and joined neighbours: where queries and documents are embedded
    topics: bool = False  # the texts of a batch are about the same, so that fine differences count
    epochs: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.05  # share of the run
    decay: str = "cosine"
    weight_decay: float = 0.01
    max_norm: float = 1.0  # gradients are clipped to it
    batch_token_count: int = 2048
    max_token_count: int = 128  # student and teacher read no more of a text
    freeze: str = "none"  # "words": the word embeddings stay; "embeddings": positions and their LayerNorm too
    cosine_weight: float = 1.0
    l2_weight: float = 0.0
    passage_weight: float = 0.0
    similarity_weight: float = 10.0
    similarity_loss: str = "squared"
    maxsim: bool = False  # similarities by the teacher's token vectors, not by its text vectors
    cross_encoder: Path | None = None  # similarities by a model that reads two texts at once
    candidates: int = 4  # texts that each text is read with by the cross-encoder
    hidden_weight: float = 0.0
    hidden_layers: tuple[int, ...] | None = None  # the teacher's layer for each of the student's; None: evenly spaced
    dimension_counts: tuple[int, ...] = ()  # Matryoshka: prefixes of the vector that must be good vectors, too
    depths: tuple[int, ...] = ()  # 2-D Matryoshka: numbers of layers after which there must be a good vector, too
    qat: bool = False  # compute with the int8 codes that the package will have
    embedding_dtype: str = "float32"  # or how the package will store word embeddings, which the student then reads
    embedding_code_count: int | None = None  # embedding_dtype pq: codes a row, as in ExportOptions
    projection: str = "pca"  # where the widths differ: shrink the teacher, or give the student a Dense to its width
    teacher_dtype: str = "float32"
    seed: int = 0

    max_minutes: float | None = None
    cache: Path | None = None  # teacher vectors; None: whit in the user's cache folder
    sts_dev: Path | None = None  # scored now and then; never trained on
    precision: str = "auto"  # of the matrix products; weights are float32
    threads: int | None = None
    save_every: int = 200  # steps between states

    def check(self) -> None:
        """Raises OptionError for the first option that is out of range."""
        counts = ("epochs", "batch_token_count", "max_token_count", "save_every")
        for name in counts:
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.seed >= 0, "seed", "0 or more", self.seed)
        _require(0 < self.learning_rate < 1, "learning_rate", "between 0 and 1", self.learning_rate)
        _require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1", self.warmup)
        _require(0 <= self.weight_decay < 1, "weight_decay", "at least 0 and below 1", self.weight_decay)
        _require(self.max_norm > 0, "max_norm", "above 0", self.max_norm)
        _require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", "above 0", self.max_minutes)
        _require(self.threads is None or self.threads >= 1, "threads", "at least 1", self.threads)
        _require(self.candidates >= 2, "candidates", "at least 2", self.candidates)
        _require(bool(self.texts or self.pairs), "texts or pairs", "at least one file", "none")
        choices = {"freeze": FREEZE, "decay": DECAYS, "precision": PRECISIONS}
        choices |= {"embedding_dtype": STUDENT_EMBEDDING_DTYPES}
        choices |= {"projection": PROJECTIONS, "teacher_dtype": TEACHER_DTYPES, "similarity_loss": SIMILARITY_LOSSES}
        for name, allowed in choices.items():
            _require(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}", getattr(self, name))
        rounded = self.embedding_dtype != "float32"
        _require(
            not rounded or self.freeze != "none", "freeze", "words or embeddings with embedding_dtype", self.freeze
        )
        _exclude(rounded, "embedding_dtype", self.qat, "qat", "qat rounds embeddings to eight bits")
        if not rounded and self.embedding_code_count is not None:  # check_embedding knows all others
            raise OptionError("embedding_code_count", "is for embedding_dtype pq, not float32; leave it out")
        weights = ("cosine_weight", "l2_weight", "passage_weight", "similarity_weight", "hidden_weight")
        for name in weights:
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _require(any(getattr(self, name) for name in weights), "one of " + ", ".join(weights), "above 0", "0 for all")

        _exclude(self.maxsim, "maxsim", self.cross_encoder is not None, "cross_encoder", "give one of them")
        _exclude(
            bool(self.pairs), "pairs", self.hidden_weight > 0, "hidden_weight", "texts and targets differ in tokens"
        )
        if self.maxsim or self.cross_encoder is not None:
            name = "maxsim" if self.maxsim else "cross_encoder"
            _require(self.similarity_weight > 0, "similarity_weight", f"above 0 with {name}", self.similarity_weight)

    def decisive(self) -> Mapping[str, Any]:
        """The options that decide the result, as plain JSON: a run can only be continued with the same ones."""
        incidental = {
            "max_minutes",
            "cache",
            "sts_dev",
            "precision",
            "threads",
            "save_every",
            "texts",
            "pairs",
            "teacher",
            "other_teachers",
            "cross_encoder",
        }
        chosen = {name: value for name, value in asdict(self).items() if name not in incidental}
        decisive: Mapping[str, Any] = json.loads(json.dumps(chosen))
        return decisive


def cache_folder(asked: Path | None) -> Path:
    """Where teacher vectors are kept: as asked, or ``whit/distill`` in the user's cache folder."""
    if asked is not None:
        return asked
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whit" / "distill"


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise OptionError(name, f"must be {rule}, got {value}")


def _exclude(first: bool, name: str, second: bool, other: str, why: str) -> None:
    if first and second:
        raise OptionError(name, f"and {other} exclude each other: {why}")
