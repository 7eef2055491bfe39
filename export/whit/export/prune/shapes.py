"""The size of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from whit.export.families import EncoderWeights


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of one layer: attention heads and feed-forward columns; 0 leaves only the bias of the block."""

    heads: int
    inner: int


def shapes_of(weights: EncoderWeights) -> list[Shape]:
    """Size of each layer."""
    return [Shape(weights.heads_of(layer), int(layer.up.weight.shape[1])) for layer in weights.layers]
