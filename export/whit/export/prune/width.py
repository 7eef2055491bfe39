"""Makes layers narrower: fewer feed-forward columns, fewer attention heads, and what stays makes up for what goes.

Without fine-tuning: after a block has lost columns, its output weight and bias are fitted again (least squares on
calibration text) so that the sum of block and residual becomes what it was in the unpruned model. Layers are done one
after the other, each on what the pruned ones before it pass on, so that errors are corrected rather than piled up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from whit.export.checkpoint import FloatArray
from whit.export.compile import Progress
from whit.export.cosines import row_cosines
from whit.export.derive import check_out
from whit.export.embed import embed
from whit.export.errors import CheckpointError, OptionError
from whit.export.families import EncoderWeights, Layer, Linear
from whit.export.prune.columns import RANKINGS, Indices, Moments, refit
from whit.export.prune.shapes import Shape, shapes_of
from whit.export.prune.subject import Subject, linear_inputs, parameter_count, read_subject, with_layer, write_layers
from whit.runtime.packing import TokenIds


@dataclass(frozen=True, slots=True)
class WidthOptions:
    """How narrow the layers become, and by which method.

    At most ``inner_count`` feed-forward columns (``intermediate_size``) and ``head_count`` attention heads stay in each
    layer; None: as many as there are. Methods:

    - ``magnitude``: the columns with the smallest weights go; nothing makes up for them. The baseline.
    - ``stat``: interpolative decomposition of the activations (STAT, arXiv:2406.00061).
    - ``obs``: optimal brain surgeon on the output error (ZipLM, arXiv:2302.04089; LLM Surgeon, arXiv:2312.17244).
    """

    inner_count: int | None = None
    head_count: int | None = None
    method: str = "stat"
    calibration: Path | None = None


@dataclass(frozen=True, slots=True)
class WidthReport:
    """What pruning inside the layers did. Cosines compare vectors before and after on the calibration texts."""

    method: str
    head_counts: tuple[int, ...]
    inner_counts: tuple[int, ...]
    mean_cosine: float
    min_cosine: float
    parameter_count_before: int
    parameter_count: int


def prune_width(source: Path, out: Path, options: WidthOptions, progress: Progress = lambda *_: None) -> WidthReport:
    """Writes ``source`` with narrower layers to ``out``, a checkpoint folder.

    With ``inner_count`` alone it is an ordinary folder. With fewer heads it is one for whit only: transformers derives the
    width of a head from their number, and has no place for layers that differ.

    Raises:
        CheckpointError: the checkpoint, an option or the calibration text cannot be used, or ``out`` cannot be written.
    """
    check_out(out, source)
    subject = read_subject(source, options.calibration)
    shapes = _bounded_shapes(subject.weights, options)
    pruned = prune_to_shapes(subject, shapes, options.method, progress)
    report = report_width(subject, pruned, options.method)
    write_layers(subject, out, pruned.layers, {"step": "prune_width", **asdict(report)})
    return report


def report_width(subject: Subject, pruned: EncoderWeights, method: str) -> WidthReport:
    """Compares a pruned encoder with the one it came from."""
    sequences = subject.token_ids(subject.texts)
    same = row_cosines(embed(subject.weights, subject.head, sequences), embed(pruned, subject.head, sequences))
    shapes = shapes_of(pruned)
    return WidthReport(
        method=method,
        head_counts=tuple(shape.heads for shape in shapes),
        inner_counts=tuple(shape.inner for shape in shapes),
        mean_cosine=float(same.mean()),
        min_cosine=float(same.min()),
        parameter_count_before=parameter_count(subject.weights),
        parameter_count=parameter_count(pruned),
    )


def prune_to_shapes(
    subject: Subject, shapes: Sequence[Shape], method: str, progress: Progress = lambda *_: None
) -> EncoderWeights:
    """The encoder with layers of the given shapes (none larger than it is), pruned by ``method`` and fitted again."""
    check_method(subject.weights, shapes, method)
    whole = now = subject.weights
    sequences = subject.token_ids(subject.texts)
    for i, shape in enumerate(shapes):
        changed = [block for block in BLOCKS if block.count(now, i) != block.asked(shape)]
        sums = _sums(whole, sequences, i, changed) if method != "magnitude" else {}
        for block in changed:
            now = _prune_block(now, sequences, i, block, block.asked(shape), method, sums.get(block))
        progress("prune (layers)", i + 1, len(shapes))
    return now


def check_method(weights: EncoderWeights, shapes: Sequence[Shape], method: str) -> None:
    """Refuses a method that is not there, and heads that cannot be spared."""
    if method not in RANKINGS:
        raise OptionError("method", f"must be one of {', '.join(RANKINGS)}, got {method!r}")
    if weights.relative_bias is not None and any(
        shape.heads != now.heads for shape, now in zip(shapes, shapes_of(weights), strict=True)
    ):
        raise CheckpointError(
            f"{weights.architecture} shares one position bias between the heads of all layers, so heads cannot be pruned; "
            "prune feed-forward columns or whole layers"
        )


@dataclass(frozen=True, slots=True)
class Block:
    """One half of a layer: the linear layers that its columns come out of (``enter``) and go into (``leave``)."""

    enter: str
    leave: str

    def count(self, weights: EncoderWeights, i: int) -> int:
        """Groups of columns (heads, or single feed-forward columns) that layer ``i`` has."""
        return self.asked(shapes_of(weights)[i])

    def asked(self, shape: Shape) -> int:
        """Groups of columns in a shape."""
        return shape.heads if self.enter == "qkv" else shape.inner

    def width(self, weights: EncoderWeights) -> int:
        """Columns in a group."""
        return weights.head_width if self.enter == "qkv" else 1

    def weight_in(self, layer: Layer) -> FloatArray:
        """What makes the columns, [in, columns]; of query, key and value the value, which is what they carry."""
        weight: FloatArray = getattr(layer, self.enter).weight
        return np.split(weight, 3, axis=1)[2] if self.enter == "qkv" else weight

    def rank(self, layer: Layer, moments: Moments, width: int, method: str) -> Indices:
        """Groups of columns, the most needed first."""
        return RANKINGS[method](moments, self.weight_in(layer), getattr(layer, self.leave).weight, width)

    def keep(self, layer: Layer, columns: Indices, leave: Linear) -> Layer:
        """``layer`` with only these columns, which go into ``leave``."""
        enter: Linear = getattr(layer, self.enter)
        if self.enter == "qkv":
            size = enter.weight.shape[1] // 3
            columns = np.concatenate([columns + part * size for part in range(3)])
        narrow = Linear(np.ascontiguousarray(enter.weight[:, columns]), enter.bias[columns])
        if self.enter == "qkv":
            return replace(layer, qkv=narrow, out=leave)
        return replace(layer, up=narrow, down=leave)


ATTENTION = Block("qkv", "out")
FEED_FORWARD = Block("up", "down")
BLOCKS = (ATTENTION, FEED_FORWARD)


def block_inputs(
    weights: EncoderWeights, sequences: Sequence[TokenIds], i: int, blocks: Sequence[Block]
) -> list[tuple[FloatArray, FloatArray]]:
    """The residual [tokens, hidden] that goes around each block of layer ``i``, and the block's columns [tokens, columns]."""
    upto = replace(weights, layers=weights.layers[: i + 1])
    names = [(f"layers.{i}.{block.enter}", f"layers.{i}.{block.leave}") for block in blocks]
    seen = linear_inputs(upto, sequences, [name for pair in names for name in pair])
    return [(seen[enter], seen[leave]) for enter, leave in names]


def _sums(
    weights: EncoderWeights, sequences: Sequence[TokenIds], i: int, blocks: Sequence[Block]
) -> dict[Block, FloatArray]:
    """What the unpruned model adds up before the norms of one layer: block plus residual, float32 [tokens, hidden]."""
    found = {}
    for block, (rest, columns) in zip(blocks, block_inputs(weights, sequences, i, blocks), strict=True):
        leave: Linear = getattr(weights.layers[i], block.leave)
        found[block] = rest + columns @ leave.weight + leave.bias
    return found


def group_columns(groups: Indices, width: int) -> Indices:
    """The columns of groups of ``width``, in rising order."""
    return (np.sort(groups)[:, None] * width + np.arange(width)).ravel()


def _prune_block(
    weights: EncoderWeights,
    sequences: Sequence[TokenIds],
    i: int,
    block: Block,
    count: int,
    method: str,
    sum_before: FloatArray | None,
) -> EncoderWeights:
    layer, width = weights.layers[i], block.width(weights)
    leave: Linear = getattr(layer, block.leave)
    ((rest, columns),) = block_inputs(weights, sequences, i, [block])
    wanted = columns @ leave.weight if sum_before is None else sum_before - rest
    moments = Moments.of(columns, wanted)
    kept = group_columns(block.rank(layer, moments, width, method)[:count], width)
    fitted = Linear(leave.weight[kept], leave.bias) if sum_before is None else refit(moments, leave.weight, kept)[0]
    return with_layer(weights, i, block.keep(layer, kept, fitted))


def _bounded_shapes(weights: EncoderWeights, options: WidthOptions) -> list[Shape]:
    now = shapes_of(weights)
    if options.inner_count is None and options.head_count is None:
        raise CheckpointError("say how many feed-forward columns (inner_count) or heads (head_count) each layer keeps")
    for what, asked, most in (
        ("inner_count", options.inner_count, max(shape.inner for shape in now)),
        ("head_count", options.head_count, max(shape.heads for shape in now)),
    ):
        if asked is not None and not 1 <= asked <= most:
            raise OptionError(what, f"must be from 1 to {most} (what the widest layer has), got {asked}")
    return [
        Shape(min(options.head_count or shape.heads, shape.heads), min(options.inner_count or shape.inner, shape.inner))
        for shape in now
    ]
