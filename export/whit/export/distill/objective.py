"""The sum of losses that a run asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from whit.export.checkpoint import CheckpointError, read_checkpoint
from whit.export.distill import losses
from whit.export.distill.options import DistillOptions
from whit.export.distill.student import Encoded, Student
from whit.runtime.packing import TokenIds


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
            raise CheckpointError(
                f"depths must be numbers of layers in ascending order, 1 to {last - 1} of the student's {last}, "
                f"got {', '.join(map(str, depths))}"
            )
        for count in options.dimension_counts:
            if not 1 <= count < student.dimension_count:
                raise CheckpointError(
                    f"dimension_counts must be 1 to {student.dimension_count - 1} (the student's vectors are longer "
                    f"than their prefixes), got {count}"
                )
        self._teacher: Student | None = None
        self._layers: Sequence[int] = ()
        if options.hidden_weight:
            self._teacher = _open_deep(options, student, device)
            self._layers = _layer_map(options, student, self._teacher)

    def teacher_states(self, sequences: Sequence[TokenIds]) -> Sequence[Tensor]:
        """The teacher's hidden states [B, S, h] for each of the student's layers; none where none are compared."""
        if self._teacher is None:
            return ()
        with torch.no_grad():
            hidden = self._teacher.encode(sequences).hidden
        return [hidden[i] for i in self._layers]

    def __call__(self, encoded: Encoded, targets: Tensor, states: Sequence[Tensor] = ()) -> Tensor:
        """The loss of one batch: a scalar.

        Args:
            encoded: what the student makes of the batch.
            targets: the teacher's vectors, float32 [B, d].
            states: what ``teacher_states`` gave for the batch.
        """
        total = self._of_vectors(encoded.vectors, targets)
        for depth in self._options.depths:
            shallow = self._of_vectors(self._student.vectors_after(encoded, depth), targets)
            total = total + shallow / len(self._options.depths)
        for ours, theirs in zip(encoded.hidden, states, strict=bool(states)):
            share = self._options.hidden_weight / len(states)
            total = total + share * losses.hidden_loss(ours, theirs, encoded.mask)
        return total

    def _of_vectors(self, vectors: Tensor, targets: Tensor) -> Tensor:
        options = self._options
        total = torch.zeros((), device=vectors.device)
        if options.cosine_weight:
            total = total + options.cosine_weight * losses.cosine_loss(vectors, targets)
        if options.l2_weight:
            total = total + options.l2_weight * losses.l2_loss(vectors, targets)
        if options.similarity_weight:
            total = total + options.similarity_weight * losses.similarity_loss(vectors, targets)
        if options.dimension_counts:
            weight = options.similarity_weight or 1.0
            total = total + weight * losses.prefix_loss(vectors, targets, options.dimension_counts)
        return total


def _open_deep(options: DistillOptions, student: Student, device: torch.device) -> Student:
    if not (options.teacher / "config.json").is_file() and not (options.teacher / "modules.json").is_file():
        raise CheckpointError(
            f"hidden_weight needs the teacher's hidden states, which the package {options.teacher} does not give; give "
            "its checkpoint folder, or hidden_weight 0"
        )
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


def _layer_map(options: DistillOptions, student: Student, teacher: Student) -> Sequence[int]:
    """The teacher's layer for each of the student's: as asked, or evenly spaced with the last on the last."""
    ours, theirs = student.layer_count, teacher.layer_count
    found = options.hidden_layers
    if found is None:
        return [round((i + 1) * theirs / ours) - 1 for i in range(ours)]
    if len(found) != ours or not all(0 <= i < theirs for i in found):
        raise CheckpointError(
            f"hidden_layers must name {ours} of the teacher's layers 0 to {theirs - 1}, one for each of the student's, "
            f"got {', '.join(map(str, found))}"
        )
    return found
