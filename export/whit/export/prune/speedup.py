"""Prunes until a model is so many times as fast on this machine: ZipLM (arXiv:2302.04089) without fine-tuning.

A table says what each size of a block costs in time (``latency``), a database what it costs in accuracy: each block is
pruned on its own to each size, and what that does to the vectors of calibration text is measured. The shapes that cost
least within the time are then a knapsack problem, solved exactly. Since errors do not quite add up, the search repeats it
with the errors weighted at random and keeps the shapes whose model, stitched from the database, is best (SPDY,
arXiv:2201.13096). The chosen shapes are pruned layer by layer and timed; if they miss the target, the time is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.export.compile import Progress
from whit.export.cosines import row_cosines
from whit.export.derive import check_out
from whit.export.embed import embed
from whit.export.errors import CheckpointError, OptionError
from whit.export.families import EncoderWeights, Layer
from whit.export.prune.columns import Moments, refit
from whit.export.prune.latency import DTYPES, LatencyTable, Timer, cut_to_shapes, measure_latency
from whit.export.prune.shapes import Shape, shapes_of
from whit.export.prune.subject import Subject, linear_inputs, read_subject, with_layer, write_layers
from whit.export.prune.width import (
    ATTENTION,
    BLOCKS,
    Block,
    WidthReport,
    check_method,
    group_columns,
    prune_to_shapes,
    report_width,
)

# A slower model is not what was asked; one this much faster than asked has lost more than it had to.
TOLERANCE = (1.0, 1.06)

_SEARCHES = 4  # whose shapes are timed; those nearest to the target are taken
_INNER_STEP = 64  # columns: a whole number of vector registers for every dtype
_INNER_LEVELS = 12
_TIME_STEPS = 4000
_SPREAD = 0.5  # of the random weights of errors, as a standard deviation of their logarithm
_SCORED_TEXTS = 64
_MEASURED_LEVELS = (0.67, 0.33, 0.0)  # shares of a block's columns at which the effect on the vectors is measured


@dataclass(frozen=True, slots=True)
class SpeedupOptions:
    """How many times as fast (``target``, over 1) as ``dtype``, and how to get there.

    ``trials`` is the number of shapes that are tried out in the search, ``seed`` makes it repeatable up to the noise of the
    clock. ``method`` as in ``WidthOptions``. The speed is that of tokenising and encoding the calibration text,
    its shorter half and its longer half alike.
    """

    target: float
    dtype: str = "int8"
    method: str = "obs"
    calibration: Path | None = None
    trials: int = 24
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SpeedupReport:
    """What the search found, and what it measured."""

    target: float
    speedup: float  # measured
    dtype: str
    width: WidthReport
    latency: LatencyTable


def prune_to_speedup(
    source: Path, out: Path, options: SpeedupOptions, progress: Progress = lambda *_: None
) -> SpeedupReport:
    """Writes ``source``, pruned to be ``options.target`` times as fast on this machine, to ``out``.

    Layers differ in shape afterwards, so only whit reads the folder.

    Raises:
        CheckpointError: the checkpoint, an option or the calibration text cannot be used, the target cannot be met (the
            message says the nearest), or ``out`` cannot be written.
    """
    check_out(out, source)
    subject = read_subject(source, options.calibration)
    pruned, reached, table = prune_subject_to_speedup(subject, options, progress)
    width = report_width(subject, pruned, options.method)
    report = SpeedupReport(options.target, reached, options.dtype, width, table)
    write_layers(subject, out, pruned.layers, {"step": "prune_to_speedup", **asdict(report)})
    return report


def prune_subject_to_speedup(
    subject: Subject, options: SpeedupOptions, progress: Progress = lambda *_: None
) -> tuple[EncoderWeights, float, LatencyTable]:
    """The pruned encoder, its measured speed-up, and the table it was found by. Errors as in ``prune_to_speedup``."""
    weights = subject.weights
    _check(options, weights)
    heads, inner = _levels(weights)
    progress("measure latency", 0, 1)
    table = measure_latency(subject, options.dtype, heads, inner)
    progress("measure latency", 1, 1)
    whole_s = table.total_s(shapes_of(weights))
    _check_reach(whole_s, table, weights, options.target)
    database = build_database(subject, heads, inner, options.method, progress)

    # The table is a little off for a mix of shapes. What one mix takes tells by how much, so a first search is a short one.
    timer, asked = Timer(subject, options.dtype), options.target
    low, high = (options.target * bound for bound in TOLERANCE)
    misses: list[tuple[float, list[Shape]]] = []
    for trials in (1, *[options.trials] * _SEARCHES):
        shapes = search(subject, database, table, whole_s / asked, replace(options, trials=trials), progress)
        reached = timer.speedup(cut_to_shapes(weights, shapes))
        asked = min(asked * options.target / reached, whole_s / _least_s(table, weights))
        if trials < options.trials:
            continue
        misses.append((max(low / reached, reached / high), shapes))
        if low <= reached <= high:
            break
    _, shapes = min(misses, key=lambda miss: miss[0])
    pruned = prune_to_shapes(subject, shapes, options.method, progress)
    return pruned, timer.speedup(pruned), table


def _check(options: SpeedupOptions, weights: EncoderWeights) -> None:
    if not options.target > 1:
        raise OptionError("target", f"must be over 1 (times as fast), got {options.target:g}")
    if options.dtype not in DTYPES:
        raise OptionError("dtype", f"must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    if options.trials < 1:
        raise OptionError("trials", f"must be 1 or more, got {options.trials}")
    check_method(weights, shapes_of(weights), options.method)


def _levels(weights: EncoderWeights) -> tuple[list[int], list[int]]:
    """Numbers of heads and of feed-forward columns that the search may choose from, those of the layers among them."""
    now = shapes_of(weights)
    most_heads, most_inner = max(shape.heads for shape in now), max(shape.inner for shape in now)
    free = range(most_heads + 1) if weights.relative_bias is None else ()
    step = -(-most_inner // (_INNER_LEVELS * _INNER_STEP)) * _INNER_STEP
    if step * 4 > most_inner:  # a small model: registers matter less than a choice
        step = -(-most_inner // 8)
    return (
        sorted({*free, *(shape.heads for shape in now)}),
        sorted({*range(0, most_inner + 1, max(step, 1)), *(shape.inner for shape in now)}),
    )


def _least_s(table: LatencyTable, weights: EncoderWeights) -> float:
    """The time of the smallest model that the search can make."""
    least_heads = 0 if weights.relative_bias is None else weights.head_count
    return table.total_s([Shape(least_heads, 0)] * len(weights.layers))


def _check_reach(whole_s: float, table: LatencyTable, weights: EncoderWeights, target: float) -> None:
    nearest = whole_s / _least_s(table, weights)
    if target > nearest:
        raise CheckpointError(
            f"a speed-up of {target:g} cannot be met: with nothing left in the layers it is {nearest:.2f} here; "
            "ask for less, or drop layers first"
        )


Key = tuple[int, Block]  # layer, and which half of it


@dataclass(frozen=True, slots=True)
class Database:
    """Each block pruned to each size, on the unpruned model: what is left, and what that does to the vectors."""

    layers: Mapping[Key, Mapping[int, Layer]]  # size -> the layer with that block pruned
    errors: Mapping[Key, Mapping[int, float]]  # size -> mean of 1 - cosine on calibration texts

    def stitch(self, weights: EncoderWeights, sizes: Mapping[Key, int]) -> EncoderWeights:
        """The model whose blocks have these sizes."""
        for (i, block), size in sizes.items():
            found = self.layers[i, block][size]
            layer = (
                replace(weights.layers[i], qkv=found.qkv, out=found.out)
                if block is ATTENTION
                else replace(weights.layers[i], up=found.up, down=found.down)
            )
            weights = with_layer(weights, i, layer)
        return weights


def build_database(
    subject: Subject, heads: Sequence[int], inner: Sequence[int], method: str, progress: Progress
) -> Database:
    """Prunes each block of each layer on its own to each size."""
    weights, scored = subject.weights, _Scored.of(subject)
    sequences = subject.token_ids(subject.texts)
    layers: dict[Key, dict[int, Layer]] = {}
    errors: dict[Key, dict[int, float]] = {}
    for i, layer in enumerate(weights.layers):
        names = {block: f"layers.{i}.{block.leave}" for block in BLOCKS if block.count(weights, i)}
        seen = linear_inputs(replace(weights, layers=weights.layers[: i + 1]), sequences, [*names.values()])
        for block, name in names.items():
            sizes = [size for size in (heads if block is ATTENTION else inner) if size <= block.count(weights, i)]
            leave, width = getattr(layer, block.leave), block.width(weights)
            moments = Moments.of(seen[name], seen[name] @ leave.weight + leave.bias)
            order = block.rank(layer, moments, width, method)
            layers[i, block], unexplained = {}, {}
            for size in sizes:
                kept = group_columns(order[:size], width)
                fitted, unexplained[size] = refit(moments, leave.weight, kept)
                layers[i, block][size] = block.keep(layer, kept, fitted)
            errors[i, block] = _effects(weights, i, layers[i, block], unexplained, scored)
        progress("measure sizes (layers)", i + 1, len(weights.layers))
    return Database(layers, errors)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Texts on which models are compared with the unpruned one."""

    subject: Subject
    sequences: Sequence[NDArray[np.int64]]
    vectors: NDArray[np.float32]

    @staticmethod
    def of(subject: Subject) -> _Scored:
        texts = subject.texts[:: max(1, len(subject.texts) // _SCORED_TEXTS)]
        sequences = subject.token_ids(texts)
        return _Scored(subject, sequences, embed(subject.weights, subject.head, sequences))

    def error(self, weights: EncoderWeights) -> float:
        """Mean of 1 - cosine to the unpruned model's vectors."""
        return float(1 - row_cosines(embed(weights, self.subject.head, self.sequences), self.vectors).mean())


def _effects(
    weights: EncoderWeights, i: int, pruned: Mapping[int, Layer], unexplained: Mapping[int, float], scored: _Scored
) -> dict[int, float]:
    """What each size of a block does to the vectors: measured at a few sizes, in between by the error of the block."""
    most = max(pruned)
    measured = {min(pruned, key=lambda size: abs(size - share * most)) for share in _MEASURED_LEVELS} - {most}
    effects = {size: max(scored.error(with_layer(weights, i, pruned[size])), 0.0) for size in measured}
    known = sorted([(unexplained[size], effect) for size, effect in effects.items()] + [(0.0, 0.0)])
    xs, ys = zip(*known, strict=True)
    # A smaller block is never taken to be better: a size that seems so is within the noise.
    found = {size: float(np.interp(unexplained[size], xs, np.maximum.accumulate(ys))) for size in pruned}
    return found | {most: 0.0}


def search(
    subject: Subject,
    database: Database,
    table: LatencyTable,
    budget_s: float,
    options: SpeedupOptions,
    progress: Progress,
) -> list[Shape]:
    """The shapes within ``budget_s`` whose model is nearest to the unpruned one, of ``options.trials`` that were tried."""
    scored, random = _Scored.of(subject), np.random.default_rng(options.seed)
    best: tuple[float, dict[Key, int]] | None = None
    tried: set[tuple[int, ...]] = set()
    for trial in range(options.trials):
        factors = (
            np.exp(_SPREAD * random.standard_normal(len(database.errors))) if trial else np.ones(len(database.errors))
        )
        weighted = [
            {size: error * factor for size, error in errors.items()}
            for errors, factor in zip(database.errors.values(), factors, strict=True)
        ]
        costs = [table.attention_s if block is ATTENTION else table.feed_forward_s for _, block in database.errors]
        chosen = cheapest_sizes(weighted, costs, budget_s - table.fixed_s)
        if chosen is not None and tuple(chosen) not in tried:
            tried.add(tuple(chosen))
            sizes = dict(zip(database.errors, chosen, strict=True))
            error = scored.error(database.stitch(subject.weights, sizes))
            best = min(best, (error, sizes), key=lambda found: found[0]) if best else (error, sizes)
        progress("search shapes (trials)", trial + 1, options.trials)
    if best is None:
        raise CheckpointError(f"a speed-up of {options.target:g} cannot be met on this machine; ask for a little less")
    now = shapes_of(subject.weights)
    return [Shape(*(best[1].get((i, block), block.asked(shape)) for block in BLOCKS)) for i, shape in enumerate(now)]


def cheapest_sizes(
    errors: Sequence[Mapping[int, float]], times: Sequence[Mapping[int, float]], budget: float
) -> list[int] | None:
    """One size for each block, with the smallest sum of errors whose times add up to no more than ``budget``.

    A knapsack, solved by dynamic programming over time in ``_TIME_STEPS`` steps, times rounded up. None: none fits.
    """
    if budget <= 0:
        return None
    least = np.zeros(_TIME_STEPS + 1)  # smallest error of the blocks so far, within so many steps
    choices: list[NDArray[np.int64]] = []
    for error, cost in zip(errors, times, strict=True):
        sizes = list(error)
        options = np.full((len(sizes), _TIME_STEPS + 1), np.inf)
        for row, size in zip(options, sizes, strict=True):
            steps = int(np.ceil(cost[size] / budget * _TIME_STEPS - 1e-9))
            if steps <= _TIME_STEPS:
                row[steps:] = least[: _TIME_STEPS + 1 - steps] + error[size]
        choices.append(options.argmin(axis=0))
        least = options.min(axis=0)
    if not np.isfinite(least[-1]):
        return None
    left, chosen = _TIME_STEPS, []
    for error, cost, choice in zip(reversed(errors), reversed(times), reversed(choices), strict=True):
        size = list(error)[choice[left]]
        chosen.append(size)
        left -= int(np.ceil(cost[size] / budget * _TIME_STEPS - 1e-9))
    return chosen[::-1]
