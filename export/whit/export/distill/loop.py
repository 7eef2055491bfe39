"""Distillation, top to bottom: a student learns to give a teacher's vectors for any text.

Needs unlabelled text only. Teacher vectors are computed by whit's own runtime; torch computes the student.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from whit.contract.manifest import MANIFEST_FILE
from whit.export.checkpoint import FloatArray, read_checkpoint
from whit.export.compile import Progress
from whit.export.cosines import row_cosines, unit_rows
from whit.export.derive import check_out, derive_checkpoint
from whit.export.distill.augment import augment
from whit.export.distill.batches import Indices, batches, chunks, topic_chunks
from whit.export.distill.head import with_dense
from whit.export.distill.memory import release_freed_memory
from whit.export.distill.objective import Lesson, Objective
from whit.export.distill.options import DistillOptions, cache_folder
from whit.export.distill.pairs import read_pairs
from whit.export.distill.projection import fit_teacher, principal_directions, project
from whit.export.distill.qat import choose_rounding
from whit.export.distill.schedule import learning_rate_at
from whit.export.distill.state import Position, StateFile, state_path
from whit.export.distill.steps import make_optimizer, uses_bfloat16
from whit.export.distill.student import Student
from whit.export.distill.teacher import JointTeacher, PackageTeacher, Teacher, open_teacher
from whit.export.distill.torch_teacher import TorchTeacher
from whit.export.distill.vectors import TeacherVectors, text_key
from whit.export.distill.words import rounded_words
from whit.export.errors import CheckpointError, OptionError
from whit.export.evaluate import Sts, read_sts, sts_score
from whit.export.texts import counted, read_texts
from whit.export.tokenless import places_with_tokens
from whit.export.trained import Rounding
from whit.export.turns import turn
from whit.runtime.packing import TokenIds

_HELD_OUT = 512  # texts at most that are kept back to measure on
_CHECKS = 5  # measurements in a run, besides the one before it
_LEAST_TEXTS = 16
_SCALE_SAMPLE = 64  # texts, all pairs of which show on what scale a judge scores
_RELEASE_EVERY = 10  # steps
_LONGEST_UNSAVED = 120.0  # seconds of training that an interruption may cost, however slow the steps
_LONGEST_STEP = 60.0  # seconds; what goes beyond was a pause: a stopped process, a closed laptop


@dataclass(frozen=True, slots=True)
class DistillReport:
    """Outcome of a distillation. Cosines are to the teacher's vectors, on texts that were kept back."""

    out: str
    teacher: str  # its fingerprint
    texts: int  # in the files
    texts_seen: int
    steps: int
    minutes: float
    complete: bool  # False: max_minutes ended the run before all epochs were done
    cosine_before: float
    cosine_after: float
    sts_before: float | None = None  # Spearman x 100 on sts_dev
    sts_after: float | None = None
    history: Sequence[Mapping[str, float]] = ()  # the measurements: texts, minutes, loss, cosine, cosine_DEPTH, sts


def distill(source: Path, out: Path, options: DistillOptions, progress: Progress = lambda *_: None) -> DistillReport:
    """Trains the checkpoint ``source`` towards a teacher and writes the result to ``out``.

    A run that was stopped goes on when called again with the same arguments; its state lies beside ``out`` meanwhile.

    Raises:
        CheckpointError: an option, the source, the teacher or a text file cannot be used, a state of another run is in
            the way, or another run is writing to ``out``. The message says what to do.
        EvaluationError: ``sts_dev`` cannot be used.
    """
    options.check()
    check_out(out, source)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with turn(state_path(out)):
        run = _Run(source, out, options, progress)
        run.train()
        return run.publish()


class _Run:
    """One distillation: everything it needs, and how far it is."""

    def __init__(self, source: Path, out: Path, options: DistillOptions, progress: Progress) -> None:
        self._source, self._out, self._options, self._progress = source, out, options, progress
        checkpoint = read_checkpoint(source)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._student = Student(checkpoint, self._device)
        self._tokenizer, self._pooling = checkpoint.tokenizer, checkpoint.pooling
        limit = min(options.max_token_count, checkpoint.max_token_count or options.max_token_count)
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if limit <= special:
            raise OptionError(
                "max_token_count",
                f"must be more than {special}, the tokens that the tokenizer puts around a text, got {limit}",
            )
        self._rounding: Rounding | None = None
        if options.qat:
            self._rounding, start = choose_rounding(checkpoint, progress)
            self._student.round_as(self._rounding, start)
        if options.embedding_dtype != "float32":
            words = rounded_words(checkpoint, options.embedding_dtype, options.embedding_code_count, progress)
            self._student.read_words_as(words)
        self._tokenizer.enable_truncation(min(limit, self._student.max_token_count))  # the two above set another
        # What the student reads, and what the teacher reads in its place.
        self._texts, self._taught = _read(options, self._tokenizer)
        cache = cache_folder(options.cache)
        teacher = self._open_teachers(cache)
        self._fingerprint = teacher.fingerprint
        self._vectors = TeacherVectors(teacher, self._taught, cache, max_token_count=options.max_token_count)
        # Files may be sorted, so the texts kept back are drawn from all of them.
        order = np.random.default_rng(options.seed).permutation(len(self._texts))
        held = min(_HELD_OUT, len(order) // 8)
        self._held, self._trained = order[:held], order[held:]
        self._pairs: Sts | None = None if options.sts_dev is None else read_sts(options.sts_dev)
        self._projection = self._fit_projection()
        self._objective = Objective(options, self._student, self._device)
        self._kept_ids: dict[int, TokenIds] = {}
        self._sketches: FloatArray | None = None  # of the teacher's vectors, where texts are grouped by them
        if self._objective.judge:
            self._objective.fit_scale(self._lesson(order[:_SCALE_SAMPLE]))
        self._parameters = self._student.trainable(options.freeze)
        self._optimizer = make_optimizer(self._parameters, options)
        self._state = StateFile(
            out,
            {
                **options.decisive(),
                "source": checkpoint.sha256,
                "teacher": self._fingerprint,
                "texts": self._vectors.key,
                **({"pairs": text_key(self._texts)} if options.pairs else {}),
                **({"judge": self._objective.judge} if self._objective.judge else {}),
            },
        )
        self._loss = 0.0  # of the last steps, smoothed
        self._position = self._resume()

    def train(self) -> None:
        """Goes through all epochs, or until the time is over."""
        at = self._position
        total = self._options.epochs * len(self._trained)
        if not at.history:
            self._measure()
        last = saved = time.monotonic()
        for lesson in self._lessons():
            at.steps += 1
            at.texts += len(lesson.texts)
            self._step(lesson)
            now = time.monotonic()
            at.seconds += min(now - last, _LONGEST_STEP)
            last = now
            self._progress("distill (texts)", at.texts, total)
            if self._share() >= len(at.history) / _CHECKS:
                self._measure()
                last = time.monotonic()  # measuring is no training
            if self._share() >= 1:
                break
            if at.steps % _RELEASE_EVERY == 0:
                release_freed_memory()
            if at.steps % self._options.save_every == 0 or now - saved > _LONGEST_UNSAVED:
                self._save()
                saved = last = time.monotonic()
        self._save()  # should the student not be written, the training is not lost

    def publish(self) -> DistillReport:
        """Writes the student and removes the state."""
        at = self._position
        if at.history[-1]["texts"] != at.texts:
            self._measure()
        before, after = at.history[0], at.history[-1]
        step = {
            "step": "distill",
            "teacher": self._fingerprint,
            "texts": len(self._texts),
            "texts_seen": at.texts,
            "options": dict(self._options.decisive()),
        }
        with with_dense(self._source, self._student.projection_arrays(), pooling=self._pooling) as source:
            derive_checkpoint(
                source,
                self._out,
                tensors=self._student.arrays(),
                config={"matryoshka_dims": list(counts)} if (counts := self._options.dimension_counts) else {},
                step=step,
                rounding=self._rounding,
            )
        self._state.remove()
        return DistillReport(
            out=str(self._out),
            teacher=self._fingerprint,
            texts=len(self._texts),
            texts_seen=at.texts,
            steps=at.steps,
            minutes=round(at.seconds / 60, 2),
            complete=at.texts >= self._options.epochs * len(self._trained),
            cosine_before=before["cosine"],
            cosine_after=after["cosine"],
            sts_before=before.get("sts"),
            sts_after=after.get("sts"),
            history=tuple(at.history),
        )

    def _open_teachers(self, cache: Path) -> Teacher:
        options = self._options
        found: list[Teacher] = []
        for folder in (options.teacher, *options.other_teachers):
            if self._device.type == "cuda" and not (folder / MANIFEST_FILE).is_file():
                found.append(TorchTeacher(folder, self._device))
            else:
                package = open_teacher(folder, cache, options.teacher_dtype, self._progress)
                found.append(PackageTeacher(package, options.threads or torch.get_num_threads()))
        return found[0] if len(found) == 1 else JointTeacher(found)

    def _lessons(self) -> Iterator[Lesson]:
        """Batches from the current position on. Moves the position to the next one."""
        at, seed = self._position, self._options.seed
        while at.epoch < self._options.epochs:
            parts = self._chunks(at.epoch)
            while at.chunk < len(parts):
                groups = parts[at.chunk]
                part = self._lesson(self._trained[np.concatenate(groups)])
                plan = batches(
                    [len(ids) for ids in part.sequences],
                    self._options.batch_token_count,
                    (seed, at.epoch, at.chunk),
                    [len(group) for group in groups],
                )
                while at.batch < len(plan):
                    batch = plan[at.batch]
                    at.batch += 1
                    yield part.of(batch)
                at.batch, at.chunk = 0, at.chunk + 1
            at.chunk, at.epoch = 0, at.epoch + 1

    def _chunks(self, epoch: int) -> list[list[Indices]]:
        seed = self._options.seed
        if not self._options.topics:
            return chunks(len(self._trained), seed, epoch)
        if self._sketches is None:
            total = len(self._trained)
            self._sketches = self._vectors.sketches(
                self._trained, lambda done: self._progress("teacher (texts)", done, total)
            )
        return topic_chunks(self._sketches, seed, epoch)

    def _lesson(self, indices: Indices) -> Lesson:
        return Lesson([self._taught[i] for i in indices], self._token_ids(indices), self._targets(indices))

    def _step(self, lesson: Lesson) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * learning_rate_at(self._share(), self._options)
        with self._autocast():
            encoded = self._student.encode(lesson.sequences)
            aims = self._objective.aims(lesson)
        loss = self._objective(encoded, aims)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._options.max_norm)
        self._optimizer.step()
        value = loss.item()  # waits for a GPU, so last of all
        if not math.isfinite(value):
            raise CheckpointError(
                f"the loss is {value} after {self._position.steps} steps; remove {self._state.path} and run again with a "
                "lower --learning-rate"
            )
        self._loss = 0.98 * self._loss + 0.02 * value if self._loss else value

    def _share(self) -> float:
        """How much of the run is done, by texts or by time, whichever is more."""
        at, minutes = self._position, self._options.max_minutes
        by_texts = at.texts / (self._options.epochs * len(self._trained))
        return max(by_texts, 0.0 if minutes is None else at.seconds / (60 * minutes))

    def _token_ids(self, indices: Indices) -> list[TokenIds]:
        """Token ids of these texts; kept where another epoch will ask for them again."""
        missing = [i for i in indices if i not in self._kept_ids]
        found = dict(zip(missing, self._tokenize([self._texts[i] for i in missing]), strict=True))
        if self._options.epochs > 1:
            self._kept_ids |= found
            found = self._kept_ids
        return [found[i] for i in indices]

    def _targets(self, indices: Indices) -> FloatArray:
        found = self._vectors.rows(indices)
        return found if self._projection is None else project(found, self._projection)

    def _fit_projection(self) -> FloatArray | None:
        """What shrinks the teacher's vectors to the student's width, if anything must."""
        ours, theirs = self._student.dimension_count, self._vectors.dimension_count
        if ours == theirs:
            return None
        sample = self._trained[: max(4096, 4 * theirs)]
        vectors = self._vectors.rows(sample)
        if self._options.projection == "learned":
            if ours > theirs:
                raise CheckpointError(
                    f"projection 'learned' widens the student, which has {ours} dimensions and the teacher {theirs}; "
                    "use projection 'pca' or another teacher"
                )
            start = principal_directions(vectors, ours).T
            self._student.add_projection(start)
            return None
        if ours > theirs:
            raise CheckpointError(
                f"the student has {ours} dimensions and the teacher {theirs}; give a teacher of at least {ours}"
            )
        return fit_teacher(vectors, self._embed([self._texts[i] for i in sample]))

    def _measure(self) -> None:
        """Adds a line to the history: nearness to the teacher on the texts kept back, and the STS score."""
        at = self._position
        ours, theirs = self._embed([self._texts[i] for i in self._held]), self._targets(self._held)
        cosine = float(row_cosines(ours, theirs).mean())
        line = {"texts": at.texts, "minutes": round(at.seconds / 60, 2), "cosine": round(cosine, 5)}
        for depth in self._options.depths:
            shallow = self._embed([self._texts[i] for i in self._held], depth)
            line[f"cosine_{depth}"] = round(float(row_cosines(shallow, theirs).mean()), 5)
        if at.texts:
            line["loss"] = round(self._loss, 6)
        if self._pairs is not None:
            first, second = (self._embed(side) for side in (self._pairs.first, self._pairs.second))
            line["sts"] = round(sts_score(unit_rows(first), unit_rows(second), self._pairs.scores), 3)
        at.history.append(line)

    def _embed(self, texts: Sequence[str], layer_count: int | None = None) -> FloatArray:
        """The student's vectors in float32, in the order of the texts; None: with all its layers."""
        depth = layer_count or self._student.layer_count
        sequences = self._tokenize(texts)
        some = [i for i, ids in enumerate(sequences) if len(ids)]  # a text without a token has the zero vector
        found = np.zeros((len(texts), self._student.dimension_count), np.float32)
        with torch.no_grad():
            for places in batches([len(sequences[i]) for i in some], 2 * self._options.batch_token_count, (0,)):
                batch = [some[i] for i in places]
                encoded = self._student.encode([sequences[i] for i in batch])
                found[batch] = self._student.vectors_after(encoded, depth).cpu().numpy()
        return found

    def _tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch_fast(list(texts))]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=uses_bfloat16(self._options, self._device))

    def _save(self) -> None:
        tensors = {name: tensor.detach() for name, tensor in self._parameters.items()}
        self._state.save(
            self._position, {"tensors": tensors, "optimizer": self._optimizer.state_dict(), "loss": self._loss}
        )

    def _resume(self) -> Position:
        state = self._state.load()
        if state is None:
            return Position()
        with torch.no_grad():
            for name, tensor in self._parameters.items():
                tensor.copy_(state["tensors"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss = state["loss"]
        position = state["position"]
        assert isinstance(position, Position)
        return position


def _read(options: DistillOptions, tokenizer: Tokenizer) -> tuple[Sequence[str], Sequence[str]]:
    """What the student reads, and what the teacher reads in its place: the same, but for pairs."""
    texts = [text for path in options.texts for text in read_texts(path)]
    pairs = [read_pairs(path) for path in options.pairs]
    count = len(texts) + sum(len(own) for own, _ in pairs)
    if count < _LEAST_TEXTS:
        raise CheckpointError(
            f"{(*options.texts, *options.pairs)[0]} has {counted(count)}; give at least {_LEAST_TEXTS}, better 100,000"
        )
    if options.augment:
        texts = augment(texts, options.seed)
    read = [*texts, *(t for own, _ in pairs for t in own)]
    taught = [*texts, *(t for _, targets in pairs for t in targets)]
    some = places_with_tokens(read, tokenizer)
    if len(some) < _LEAST_TEXTS:
        raise CheckpointError(f"only {counted(len(some))} of {len(read)} has a token; give at least {_LEAST_TEXTS}")
    return [read[i] for i in some], [taught[i] for i in some]
