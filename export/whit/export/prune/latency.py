"""What a layer's shape costs on this machine: a table of measured times, added up for any mix of shapes.

As in ZipLM (arXiv:2302.04089), the table is measured, not counted: time does not follow arithmetic, and what is spared on
paper is not always spared on the clock. The graphs are the ones that whit serves, run by what runs
them here (whit's own kernels or onnxruntime), on one thread; times are CPU times,
since other work on the machine would show in wall time, and the smallest of several interleaved rounds counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.export.embed import micro_batch_feeds
from whit.export.embedding import store_rows
from whit.export.encoder_graph import OUTPUT, build_graph
from whit.export.families import EncoderWeights, Layer, Linear
from whit.export.linear import Plan, Static
from whit.export.prune.shapes import Shape
from whit.export.prune.subject import Subject
from whit.runtime.encoder import open_session
from whit.runtime.opening import open_network
from whit.runtime.packing import TokenIds

DTYPES = ("float32", "int8")

ROUNDS = 7
# Timed micro-batches of the shorter half of the texts, and of the longer: what is spared differs between them by a
# twentieth, and neither kind may be promised the other's speed.
BATCHES_A_HALF = 2


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """CPU seconds for the timed texts: what every model pays, and what one block of each size adds."""

    fixed_s: float
    attention_s: Mapping[int, float]  # by heads
    feed_forward_s: Mapping[int, float]  # by columns

    def total_s(self, shapes: Sequence[Shape]) -> float:
        """The time of a model with layers of these shapes, all of them in the table."""
        return self.fixed_s + sum(self.attention_s[shape.heads] + self.feed_forward_s[shape.inner] for shape in shapes)


class Timer:
    """Times models on the same texts, in turns."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self._subject, self._dtype = subject, dtype
        sequences = subject.token_ids(subject.texts)
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        self._batches: list[list[TokenIds]] = []
        self._feeds: list[Mapping[str, NDArray[np.generic]]] = []
        self._texts: list[str] = []
        for half in (by_length[: len(by_length) // 2], by_length[len(by_length) // 2 :]):
            batches = micro_batch_feeds(subject.weights, [sequences[i] for i in half])
            places = {len(batches) * (2 * k + 1) // (2 * BATCHES_A_HALF) for k in range(BATCHES_A_HALF)}
            for batch, feeds in (batches[place] for place in sorted(places)):
                self._batches.append([sequences[half[i]] for i in batch])
                self._feeds.append(feeds)
                self._texts += [subject.texts[half[i]] for i in batch]

    def tokenise_s(self) -> float:
        """CPU seconds to tokenise the timed texts, which no pruning spares."""
        return min(self._clocked(partial(self._subject.token_ids, self._texts)) for _ in range(ROUNDS))

    def model_s(self, models: Sequence[EncoderWeights]) -> list[float]:
        """CPU seconds of each model on the timed texts, without tokenising."""
        runs = [self._runner(weights) for weights in models]
        for run in runs:
            run()  # the first run allocates
        rounds = [[self._clocked(run) for run in runs] for _ in range(ROUNDS)]
        return [min(times) for times in zip(*rounds, strict=True)]

    def speedup(self, pruned: EncoderWeights) -> float:
        """How many times as fast as the unpruned model ``pruned`` is, tokenising included."""
        fixed = self.tokenise_s()
        before, after = self.model_s([self._subject.weights, pruned])
        return (fixed + before) / (fixed + after)

    def _runner(self, weights: EncoderWeights) -> Callable[[], None]:
        """Runs a model on the timed texts, as the server would on this machine."""
        plan = int8_plan(weights) if self._dtype == "int8" else Plan()
        graph = build_graph(weights, self._subject.head, plan).SerializeToString()
        network = open_network(graph, self._dtype, position_offset=weights.position_offset)
        if network is not None:
            return lambda: _each(network.run, self._batches)
        session = open_session(graph)
        return lambda: _each(partial(session.run, [OUTPUT]), self._feeds)

    @staticmethod
    def _clocked(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start


def _each(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    for item in items:
        work(item)


def measure_latency(
    subject: Subject, dtype: str, head_counts: Sequence[int], inner_counts: Sequence[int]
) -> LatencyTable:
    """Times every size of either block: a model with that block alone in all layers, less a model with empty layers."""
    timer = Timer(subject, dtype)
    shapes = [Shape(heads, 0) for heads in head_counts if heads] + [Shape(0, inner) for inner in inner_counts if inner]
    layer_count = len(subject.weights.layers)
    models = [cut_to_shapes(subject.weights, [shape] * layer_count) for shape in [Shape(0, 0), *shapes]]
    empty, *times = timer.model_s(models)
    added = {shape: max(seconds - empty, 0.0) / layer_count for shape, seconds in zip(shapes, times, strict=True)}
    return LatencyTable(
        fixed_s=timer.tokenise_s() + empty,
        attention_s={0: 0.0} | {shape.heads: seconds for shape, seconds in added.items() if shape.heads},
        feed_forward_s={0: 0.0} | {shape.inner: seconds for shape, seconds in added.items() if shape.inner},
    )


def cut_to_shapes(weights: EncoderWeights, shapes: Sequence[Shape]) -> EncoderWeights:
    """A model of these shapes to be timed: its first heads and columns, which is nothing that one would use."""
    width = weights.head_width

    def cut(layer: Layer, shape: Shape) -> Layer:
        size, inner = shape.heads * width, shape.inner
        parts = zip(np.split(layer.qkv.weight, 3, axis=1), np.split(layer.qkv.bias, 3), strict=True)
        weight_parts, bias_parts = zip(*((weight[:, :size], bias[:size]) for weight, bias in parts), strict=True)
        return replace(
            layer,
            qkv=Linear(np.hstack(weight_parts), np.hstack(bias_parts)),
            out=Linear(layer.out.weight[:size], layer.out.bias),
            up=Linear(np.ascontiguousarray(layer.up.weight[:, :inner]), layer.up.bias[:inner]),
            down=Linear(layer.down.weight[:inner], layer.down.bias),
        )

    return replace(weights, layers=[cut(layer, shape) for layer, shape in zip(weights.layers, shapes, strict=True)])


def int8_plan(weights: EncoderWeights) -> Plan:
    """int8 for every linear layer, with codes that are right for the clock and no more: no calibration is done."""
    schemes = {
        f"layers.{i}.{part}": _static(getattr(layer, part))
        for i, layer in enumerate(weights.layers)
        for part in ("qkv", "out", "up", "down")
    }
    return Plan(schemes, store_rows(weights.words, "int8"))


def _static(linear: Linear) -> Static:
    scales = np.abs(linear.weight).max(axis=0, initial=1e-6) / np.float32(127)
    codes: NDArray[np.int8] = np.rint(linear.weight / scales).astype(np.int8)
    return Static(codes, scales.astype(np.float32), linear.bias, scale=0.05, zero_point=128)
