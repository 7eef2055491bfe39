"""Leaves out whole layers: given ones, or those that calibration text says are the least missed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from whit.export.checkpoint import FloatArray
from whit.export.compile import Progress
from whit.export.cosines import row_cosines, unit_rows
from whit.export.derive import check_out
from whit.export.embed import embed
from whit.export.errors import CheckpointError, OptionError
from whit.export.prune.shapes import shapes_of
from whit.export.prune.subject import Subject, hidden_states, parameter_count, read_subject, write_layers

CRITERIA = ("even", "cosine", "entropy", "loss")

_TEMPERATURE = 0.05
_PAIRS_A_BATCH = 64
_BUCKET_COUNT = 64
_STATE_ROWS = 2048
_SCORED_TEXTS = 64


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Which layers stay.

    Either ``keep`` names them (from 0; a layer that is named twice is run twice), or ``count`` says how many and
    ``criterion`` chooses:

    - ``even``: evenly spaced, the first and the last among them; looks at nothing.
    - ``cosine``: drops the layers that change the hidden states least (block influence; ShortGPT, arXiv:2403.03853).
    - ``entropy``: drops the layers that raise the entropy of the hidden states least (Entropy-Based Block Pruning).
    - ``loss``: drops everything after a layer (L3Prune): after ``count`` layers, or without ``count`` after the layer of
      the second half at which a contrastive loss is lowest.

    With ``reuse``, a layer that is kept is run again in the place of a dropped one wherever that brings the vectors nearer
    to what they were (Skrr, arXiv:2502.08690): it costs time again, but no weights.
    """

    keep: tuple[int, ...] | None = None
    count: int | None = None
    criterion: str = "cosine"
    reuse: bool = False
    calibration: Path | None = None


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What dropping layers did. Cosines compare vectors before and after on the calibration texts."""

    kept: tuple[int, ...]  # in the order in which they run; with re-use some more than once
    dropped: tuple[int, ...]
    scores: tuple[float, ...]  # of each layer, by the criterion; empty where nothing was measured
    mean_cosine: float
    min_cosine: float
    parameter_count_before: int
    parameter_count: int


def drop_layers(source: Path, out: Path, options: LayerOptions, progress: Progress = lambda *_: None) -> LayerReport:
    """Writes ``source`` without some of its layers to ``out``: an ordinary checkpoint folder, layers renumbered.

    Raises:
        CheckpointError: the checkpoint, an option or the calibration text cannot be used, or ``out`` cannot be written.
    """
    check_out(out, source)
    subject = read_subject(source, options.calibration)
    total = len(subject.weights.layers)
    _check(options, total)
    sequences = subject.token_ids(subject.texts)
    progress("rank layers", 0, 1)
    kept, scores = (options.keep, ()) if options.keep is not None else choose_layers(subject, options)
    progress("rank layers", 1, 1)
    if options.reuse:
        kept = reuse_layers(subject, kept, progress)
    pruned = replace(subject.weights, layers=[subject.weights.layers[i] for i in kept])
    same = row_cosines(embed(subject.weights, subject.head, sequences), embed(pruned, subject.head, sequences))
    report = LayerReport(
        kept=tuple(kept),
        dropped=tuple(i for i in range(total) if i not in kept),
        scores=tuple(round(score, 6) for score in scores),
        mean_cosine=float(same.mean()),
        min_cosine=float(same.min()),
        parameter_count_before=parameter_count(subject.weights),
        parameter_count=parameter_count(replace(pruned, layers=[subject.weights.layers[i] for i in sorted(set(kept))])),
    )
    criterion = "given" if options.keep is not None else options.criterion
    write_layers(subject, out, pruned.layers, {"step": "drop_layers", "criterion": criterion, **asdict(report)})
    return report


def _check(options: LayerOptions, total: int) -> None:
    if options.criterion not in CRITERIA:
        raise OptionError("criterion", f"must be one of {', '.join(CRITERIA)}, got {options.criterion!r}")
    if options.keep is not None:
        if options.count is not None:
            raise CheckpointError("keep names the layers and count their number; give one of them")
        if not options.keep or not set(options.keep) <= set(range(total)):
            raise OptionError(
                "keep", f"must name layers from 0 to {total - 1}, got {','.join(map(str, options.keep))!r}"
            )
    elif options.count is None and options.criterion != "loss":
        raise CheckpointError(f"say which layers to keep, or how many: count from 1 to {total}")
    elif options.count is not None and not 1 <= options.count <= total:
        raise OptionError("count", f"must be from 1 to {total} (the layers of the checkpoint), got {options.count}")


def choose_layers(subject: Subject, options: LayerOptions) -> tuple[Sequence[int], Sequence[float]]:
    """The layers to keep, and the criterion's score of each layer."""
    total = len(subject.weights.layers)
    if options.criterion == "even":
        assert options.count is not None
        return even_layers(total, options.count), ()
    if options.criterion == "loss":
        losses = loss_curve(subject)
        return range(options.count or loss_minima(losses)[1]), losses
    assert options.count is not None
    scores = SCORES[options.criterion](subject)
    most_missed = np.argsort(-np.array(scores), kind="stable")[: options.count]
    return sorted(most_missed.tolist()), scores


def reuse_layers(subject: Subject, kept: Sequence[int], progress: Progress = lambda *_: None) -> list[int]:
    """The layers to run, in order: in each dropped layer's place nothing, or the kept layer that does its work best.

    One place after the other, from the last (what comes after a place decides what it must deliver), by the mean cosine to
    the unpruned model's vectors on a sample of the calibration text.
    """
    layers = subject.weights.layers
    sequences = subject.token_ids(subject.texts[:: max(1, len(subject.texts) // _SCORED_TEXTS)])
    wanted = embed(subject.weights, subject.head, sequences)

    def likeness(places: Sequence[int | None]) -> float:
        model = replace(subject.weights, layers=[layers[i] for i in places if i is not None])
        return float(row_cosines(embed(model, subject.head, sequences), wanted).mean())

    places: list[int | None] = [i if i in kept else None for i in range(len(layers))]
    empty = [i for i in reversed(range(len(layers))) if i not in kept]
    best = likeness(places)
    for done, i in enumerate(empty, start=1):
        found = {j: likeness([*places[:i], j, *places[i + 1 :]]) for j in sorted(set(kept))}
        winner = max(found, key=lambda j: found[j])
        if found[winner] > best:
            places[i], best = winner, found[winner]
        progress("re-use layers", done, len(empty))
    return [i for i in places if i is not None]


def even_layers(total: int, count: int) -> list[int]:
    """``count`` of ``total`` layers, evenly spaced from the first to the last; a single one is the last."""
    return [total - 1] if count == 1 else [round(i * (total - 1) / (count - 1)) for i in range(count)]


def block_influence(subject: Subject) -> list[float]:
    """1 - mean cosine between what enters and what leaves each layer (ShortGPT, arXiv:2403.03853)."""
    return [float(1 - row_cosines(a, b).mean()) for a, b in _changes(subject)]


def entropy_increase(subject: Subject) -> list[float]:
    """How many nats of entropy each layer adds to the hidden states (Entropy-Based Block Pruning).

    Entropy of a histogram of each dimension's values, averaged over the dimensions; one range for all layers.
    """
    changes = _changes(subject)
    reach = max(float(np.abs(states).max()) for change in changes for states in change)

    def entropy(states: FloatArray) -> float:
        buckets = np.clip(((states / reach + 1) / 2 * _BUCKET_COUNT).astype(np.int64), 0, _BUCKET_COUNT - 1)
        flat = buckets + np.arange(states.shape[1]) * _BUCKET_COUNT
        shares = np.bincount(flat.ravel(), minlength=states.shape[1] * _BUCKET_COUNT) / len(states)
        return float(-(shares * np.log(np.maximum(shares, 1e-12))).sum() / states.shape[1])

    return [entropy(b) - entropy(a) for a, b in changes]


SCORES: Mapping[str, Callable[[Subject], list[float]]] = {"cosine": block_influence, "entropy": entropy_increase}


def _changes(subject: Subject) -> list[tuple[FloatArray, FloatArray]]:
    """What enters and what leaves each layer, on a sample of tokens."""
    if not all(shape.heads and shape.inner for shape in shapes_of(subject.weights)):
        raise CheckpointError("the checkpoint has layers pruned to nothing; drop layers first, or name them with keep")
    states = hidden_states(subject.weights, subject.token_ids(subject.texts))
    stride = max(1, len(states[0]) // _STATE_ROWS)
    sample = [rows[::stride] for rows in states]
    return list(itertools.pairwise(sample))


def loss_curve(subject: Subject) -> list[float]:
    """Contrastive loss of the model cut after 1, 2, ... layers (L3Prune), without labels.

    The two halves of a calibration text belong together, the second halves of the batch's other texts do not: mean
    cross-entropy of the cosines at temperature 0.05.
    """
    halves = [
        (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])) for words in _long(subject.texts)
    ]
    firsts, seconds = (subject.token_ids(side) for side in zip(*halves, strict=True))
    losses = []
    for count in range(1, len(subject.weights.layers) + 1):
        cut = replace(subject.weights, layers=subject.weights.layers[:count])
        a, b = embed(cut, subject.head, firsts), embed(cut, subject.head, seconds)
        losses.append(_contrastive_loss(unit_rows(a), unit_rows(b)))
    return losses


def loss_minima(losses: Sequence[float]) -> tuple[int, int]:
    """Layers to keep for L3Prune's small and large model: where the loss of the first and the second half is lowest."""
    middle = len(losses) // 2
    small = int(np.argmin(losses[:middle])) if middle else 0
    return small + 1, middle + int(np.argmin(losses[middle:])) + 1


def _long(texts: Sequence[str]) -> list[list[str]]:
    found = [words for words in map(str.split, texts) if len(words) >= 8]
    if len(found) < 8:
        raise CheckpointError(
            f"the calibration text has {len(found)} lines of 8 words or more; criterion 'loss' needs at least 8, better 200"
        )
    return found


def _contrastive_loss(a: FloatArray, b: FloatArray) -> float:
    losses = []
    for start in range(0, len(a), _PAIRS_A_BATCH):
        scores = (a[start : start + _PAIRS_A_BATCH] @ b[start : start + _PAIRS_A_BATCH].T) / _TEMPERATURE
        scores -= scores.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))
    return float(np.concatenate(losses).mean())
