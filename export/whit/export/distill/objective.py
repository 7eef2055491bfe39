"""The sum of losses that a run asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.distill import losses
from whit.export.distill.judges import CrossEncoder, Judge, Scale, TokenJudge
from whit.export.distill.losses import Scores
from whit.export.distill.options import DistillOptions
from whit.export.distill.student import Encoded, Student
from whit.export.errors import CheckpointError, OptionError
from whit.runtime.packing import TokenIds


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch of B texts."""

    texts: Sequence[str]  # as the teacher reads them
    sequences: Sequence[TokenIds]  # as the student does
    vectors: FloatArray  # the teacher's, float32 [B, d]

    def of(self, batch: Sequence[int]) -> Lesson:
        """Some of the texts."""
        texts, sequences = [self.texts[i] for i in batch], [self.sequences[i] for i in batch]
        return Lesson(texts, sequences, self.vectors[batch])


@dataclass(frozen=True, slots=True)
class Aims:
    """What the teachers want of a batch."""

    vectors: Tensor  # float32 [B, d]
    scores: Scores
    states: Sequence[Tensor] = ()  # hidden states [B, S, h] for each of the student's layers, where these are compared


class Objective:
    """Losses by their weights. Hidden states are compared with a teacher that torch computes beside the student.

    With ``depths`` the vectors after fewer layers have the same losses, all together as much as the last layer's (2-D
    Matryoshka, arXiv:2402.14776). There one depth is drawn at each step; here all count at every one, for the layers were
    computed anyway, and what a depth adds is a head and its losses; a run that goes on needs no draws remembered. Every
    depth learns the teacher's vectors, which also draws it to the last layer's.
    """

    def __init__(self, options: DistillOptions, student: Student, device: torch.device) -> None:
        self._options, self._student = options, student
        depths, last = options.depths, student.layer_count
        if list(depths) != sorted(set(depths)) or not all(0 < depth < last for depth in depths):
            raise OptionError(
                "depths",
                f"must be numbers of layers in ascending order, 1 to {last - 1} of the student's {last}, "
                f"got {', '.join(map(str, depths))}",
            )
        for count in options.dimension_counts:
            if not 1 <= count < student.dimension_count:
                raise OptionError(
                    "dimension_counts",
                    f"must be 1 to {student.dimension_count - 1} (the student's vectors are longer "
                    f"than their prefixes), got {count}",
                )
        self._device = device
        self._teacher: Student | None = None
        self._layers: Sequence[int] = ()
        if options.hidden_weight:
            self._teacher = _open_deep(options, student, device)
            self._layers = _layer_map(options, student, self._teacher)
        self._judge: Judge | None = None
        self._scale = Scale(1, 0)
        if options.cross_encoder is not None:
            self._judge = CrossEncoder(options.cross_encoder, device, options.max_token_count, options.candidates)
        elif options.maxsim:
            _require_folder(options.teacher, "maxsim needs the teacher's token vectors", "leave out maxsim")
            self._judge = TokenJudge(options.teacher, device, options.max_token_count)

    @property
    def judge(self) -> str | None:
        """The fingerprint of what scores pairs of texts, if it is not the teacher's vectors."""
        return None if self._judge is None else self._judge.fingerprint

    def fit_scale(self, sample: Lesson) -> None:
        """Finds how a judge's scores become cosines; the same sample gives the same scale.

        Raises:
            CheckpointError: the judge gives all pairs the same score.
        """
        if self._judge is not None:
            with torch.no_grad():
                cosines = losses.cosine_matrix(torch.from_numpy(sample.vectors).to(self._device))
                self._scale = Scale.fit(self._judge.scores(sample.texts, cosines), cosines)

    def aims(self, lesson: Lesson) -> Aims:
        """Asks the teachers; no gradients are kept."""
        with torch.no_grad():
            vectors = torch.from_numpy(lesson.vectors).to(self._device)
            scores = Scores.of_vectors(vectors)
            if self._judge is not None:
                scores = self._scale.apply(self._judge.scores(lesson.texts, scores.values))
            if self._teacher is None:
                return Aims(vectors, scores)
            hidden = self._teacher.encode(lesson.sequences).hidden
            return Aims(vectors, scores, [hidden[i] for i in self._layers])

    def __call__(self, encoded: Encoded, aims: Aims) -> Tensor:
        """The loss of one batch, a scalar, of what the student makes of it."""
        total = self._of_vectors(encoded.vectors, aims)
        for depth in self._options.depths:
            shallow = self._of_vectors(self._student.vectors_after(encoded, depth), aims)
            total = total + shallow / len(self._options.depths)
        for ours, theirs in zip(encoded.hidden, aims.states, strict=bool(aims.states)):
            share = self._options.hidden_weight / len(aims.states)
            total = total + share * losses.hidden_loss(ours, theirs, encoded.mask)
        return total

    def _of_vectors(self, vectors: Tensor, aims: Aims) -> Tensor:
        options = self._options
        total = torch.zeros((), device=vectors.device)
        if options.cosine_weight:
            total = total + options.cosine_weight * losses.cosine_loss(vectors, aims.vectors)
        if options.l2_weight:
            total = total + options.l2_weight * losses.l2_loss(vectors, aims.vectors)
        if options.passage_weight:
            total = total + options.passage_weight * losses.passage_loss(vectors, aims.vectors)
        if options.similarity_weight:
            loss = losses.similarity_loss(vectors, aims.scores, options.similarity_loss)
            total = total + options.similarity_weight * loss
        if options.dimension_counts:
            weight = options.similarity_weight or 1.0
            loss = losses.prefix_loss(vectors, aims.scores, options.dimension_counts, options.similarity_loss)
            total = total + weight * loss
        return total


def _open_deep(options: DistillOptions, student: Student, device: torch.device) -> Student:
    _require_folder(options.teacher, "hidden_weight needs the teacher's hidden states", "give hidden_weight 0")
    checkpoint = read_checkpoint(options.teacher)
    teacher = Student(checkpoint, device)
    if teacher.hidden_count != student.hidden_count:
        raise CheckpointError(
            f"hidden_weight compares hidden states, which are {student.hidden_count} wide in the student and "
            f"{teacher.hidden_count} in the teacher; use hidden_weight 0"
        )
    if teacher.vocabulary != student.vocabulary:
        raise CheckpointError(
            "hidden_weight compares token by token, but student and teacher have different tokenizers; use hidden_weight 0"
        )
    return teacher


def _require_folder(teacher: Path, need: str, way_out: str) -> None:
    """Raises CheckpointError where the teacher is a package, which gives vectors only."""
    if not (teacher / "config.json").is_file() and not (teacher / "modules.json").is_file():
        raise CheckpointError(
            f"{need}, which the package {teacher} does not give; give its checkpoint folder, or {way_out}"
        )


def _layer_map(options: DistillOptions, student: Student, teacher: Student) -> Sequence[int]:
    """The teacher's layer for each of the student's: as asked, or evenly spaced with the last on the last."""
    ours, theirs = student.layer_count, teacher.layer_count
    found = options.hidden_layers
    if found is None:
        return [round((i + 1) * theirs / ours) - 1 for i in range(ours)]
    if len(found) != ours or not all(0 <= i < theirs for i in found):
        raise OptionError(
            "hidden_layers",
            f"must name {ours} of the teacher's layers 0 to {theirs - 1}, one for each of the student's, "
            f"got {', '.join(map(str, found))}",
        )
    return found
