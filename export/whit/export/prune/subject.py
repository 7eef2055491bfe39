"""What every pruning step starts from and ends in: a checkpoint with calibration text, run in float32; a folder written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.export.checkpoint import Checkpoint, FloatArray, Tensors, read_checkpoint
from whit.export.compile import calibration_texts
from whit.export.derive import derive_checkpoint
from whit.export.embed import micro_batch_feeds
from whit.export.encoder_graph import Head, build_graph, tap_outputs
from whit.export.errors import CheckpointError
from whit.export.families import LAYER_NAMES, EncoderWeights, Layer, Linear, Norm, Source, encoder_weights
from whit.export.linear import Plan
from whit.export.parallel import side_by_side
from whit.export.tokenless import texts_with_tokens
from whit.runtime.encoder import open_session
from whit.runtime.packing import TokenIds


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint to prune, and the texts on which it is watched."""

    folder: Path
    checkpoint: Checkpoint
    weights: EncoderWeights
    head: Head
    texts: Sequence[str]

    def token_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, int64 [token count], cut to what the model reads."""
        limit = self.weights.max_token_count
        tokenizer = self.checkpoint.tokenizer
        tokenizer.enable_truncation(min(self.checkpoint.max_token_count or limit, limit))
        return [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(list(texts))]


def read_subject(folder: Path, calibration: Path | None) -> Subject:
    """Reads a checkpoint folder and the calibration text (None: the one that ships with whit).

    Raises:
        CheckpointError: either cannot be used.
    """
    checkpoint = read_checkpoint(folder)
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    texts = texts_with_tokens(calibration_texts(calibration), checkpoint.tokenizer)
    return Subject(folder, checkpoint, encoder_weights(checkpoint), head, texts)


def linear_inputs(
    weights: EncoderWeights, sequences: Sequence[TokenIds], names: Sequence[str]
) -> dict[str, FloatArray]:
    """What enters the linear layers called ``names`` (``layers.0.down``): float32 [tokens of all sequences, in] each."""
    if not names:  # to onnxruntime no outputs are all there are
        return {}
    taps: dict[str, str] = {}
    session = open_session(build_graph(weights, Head("mean"), Plan(), taps=taps).SerializeToString())
    outputs = tap_outputs({name: taps[name] for name in names})
    found: dict[str, list[FloatArray]] = {output: [] for output in outputs}
    feeds = [feeds for _, feeds in micro_batch_feeds(weights, sequences)]
    for values in side_by_side(partial(session.run, outputs), feeds):
        for output, rows in zip(outputs, values, strict=True):
            found[output].append(rows)
    whole = {output: np.concatenate(parts) for output, parts in found.items()}
    return {name: whole[taps[name]] for name in names}


def hidden_states(weights: EncoderWeights, sequences: Sequence[TokenIds]) -> list[FloatArray]:
    """What enters each layer, and what leaves the last one: float32 [tokens of all sequences, hidden] each.

    Needs the last layer to have a feed-forward block.
    """
    last = len(weights.layers) - 1
    entering = [f"layers.{i}.qkv" for i in range(last + 1)]
    seen = linear_inputs(weights, sequences, [*entering, f"layers.{last}.up", f"layers.{last}.down"])
    layer = weights.layers[last]
    change = seen[f"layers.{last}.down"] @ layer.down.weight + layer.down.bias
    leaving = layer_norm(seen[f"layers.{last}.up"] + change, layer.output_norm, weights.epsilon)
    return [*(seen[name] for name in entering), leaving]


def layer_norm(x: FloatArray, norm: Norm, epsilon: float) -> FloatArray:
    """LayerNorm over the last axis of float32 [n, hidden]."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    normed: FloatArray = centred / np.sqrt(variance + np.float32(epsilon)) * norm.gain + norm.bias
    return normed


def parameter_count(weights: EncoderWeights) -> int:
    """Numbers in the encoder's layers (the embedding tables are not pruned here)."""
    return sum(
        array.size
        for layer in weights.layers
        for part in (layer.qkv, layer.out, layer.up, layer.down)
        for array in (part.weight, part.bias)
    )


def write_layers(subject: Subject, out: Path, layers: Sequence[Layer], step: Mapping[str, Any]) -> None:
    """Writes ``subject``'s checkpoint with other encoder layers to ``out``; everything else stays as it is.

    Raises:
        CheckpointError: ``out`` cannot be written.
    """
    if not layers:
        raise CheckpointError("no layer would be left; keep at least one")
    names = LAYER_NAMES[subject.checkpoint.model_type]
    stack = f"{Source(subject.checkpoint.tensors).prefix}{names.stack}."
    tensors = {name: array for name, array in subject.checkpoint.tensors.items() if not name.startswith(stack)}
    for i, layer in enumerate(layers):
        tensors |= _layer_tensors(layer, f"{stack}{i}.", subject.checkpoint.model_type)
    config: dict[str, Any] = {names.layer_count: len(layers)}
    widths = {layer.up.weight.shape[1] for layer in layers}
    if len(widths) == 1:  # otherwise the field has no true value; whit reads the tensors' shapes
        config[names.inner_count] = widths.pop()
    derive_checkpoint(subject.folder, out, tensors=tensors, config=config, step=step)


def with_layer(weights: EncoderWeights, i: int, layer: Layer) -> EncoderWeights:
    """``weights`` with another layer ``i``."""
    return replace(weights, layers=[*weights.layers[:i], layer, *weights.layers[i + 1 :]])


def _layer_tensors(layer: Layer, at: str, model_type: str) -> Tensors:
    names = LAYER_NAMES[model_type]
    query, key, value = (
        Linear(weight, bias)
        for weight, bias in zip(np.split(layer.qkv.weight, 3, axis=1), np.split(layer.qkv.bias, 3), strict=True)
    )
    linears = {names.query: query, names.key: key, names.value: value, names.out: layer.out}
    linears |= {names.up: layer.up, names.down: layer.down}
    norms = {names.attention_norm: layer.attention_norm, names.output_norm: layer.output_norm}
    found: dict[str, NDArray[np.float32]] = {}
    for name, linear in linears.items():
        found |= {f"{at}{name}.weight": linear.weight.T, f"{at}{name}.bias": linear.bias}
    for name, norm in norms.items():
        found |= {f"{at}{name}.weight": norm.gain, f"{at}{name}.bias": norm.bias}
    return found
