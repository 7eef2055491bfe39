"""Splits the few feed-forward neurons whose values dwarf all others, so that one activation scale can serve them all.

Encoders keep a neuron or two that answer to the first token alone, with values several times those of any other ("massive
activations", arXiv:2402.17762); a scale that covers them leaves little of the range to the rest. Such a neuron becomes
several, as in outlier channel splitting (arXiv:1901.09504), but each takes one stretch of its range: with the ceiling C,
copy k computes act(u - k * C) and is cut off at C, and the copies add up to act(u) where u is far from a multiple of C.
The cut costs nothing, since u8 codes end at C anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whit.export.calibrate import Activations
from whit.export.families import EncoderWeights, Layer, Linear

FloatArray = NDArray[np.float32]

# Activations that are near u for large u and near 0 for small: only their stretches add up.
_CAN = ("gelu", "gelu_tanh", "relu")
# Room above the largest value of any other neuron, for text that calibration has not seen.
_ROOM = 1.25
_MOST_NEURONS = 4  # that are split in a layer
_MOST_COPIES = 8
# A ceiling that is not much below the largest value gains little.
_LEAST_GAIN = 0.75


def split_outliers(weights: EncoderWeights, seen: Mapping[str, Activations]) -> EncoderWeights:
    """The encoder with its outlier neurons split; the same object where it has none."""
    if weights.activation not in _CAN:
        return weights
    uses = Counter(map(id, weights.layers))  # a layer that is run several times is stored once: it stays as it is
    layers = [
        _split(layer, seen[f"layers.{i}.down"].high) if f"layers.{i}.down" in seen and uses[id(layer)] == 1 else layer
        for i, layer in enumerate(weights.layers)
    ]
    changed = any(new is not old for new, old in zip(layers, weights.layers, strict=True))
    return replace(weights, layers=layers) if changed else weights


def _split(layer: Layer, high: FloatArray) -> Layer:
    """``high`` float32 [inner]: the largest value of each neuron."""
    ceiling, copies = _ceiling(high)
    if not copies:
        return layer
    source = [neuron for neuron, count in copies.items() for _ in range(count)]
    shift = np.concatenate([ceiling * np.arange(1, count + 1, dtype=np.float32) for count in copies.values()])
    # Beside each copy an idle neuron: two copies side by side would have to share the room of a pair (``rounding``).
    up, down = layer.up, layer.down
    idle = len(high) % 2
    return replace(
        layer,
        up=Linear(_spaced(up.weight, up.weight[:, source], idle), _spaced(up.bias, up.bias[source] - shift, idle)),
        down=Linear(_spaced(down.weight.T, down.weight[source].T, idle).T.copy(), down.bias),
        ceiling=ceiling,
    )


def _ceiling(high: FloatArray) -> tuple[float, dict[int, int]]:
    """The lowest ceiling that few copies can keep, and how many of them each outlier neuron needs."""
    largest = np.argsort(-high, kind="stable")[: _MOST_NEURONS + 1]
    for count in range(min(_MOST_NEURONS, len(high) - 1), 0, -1):
        ceiling = float(np.float32(_ROOM) * high[largest[count]])
        if 0 < ceiling <= _LEAST_GAIN * high[largest[0]]:
            copies = {int(n): int(np.ceil(high[n] / ceiling)) - 1 for n in largest[:count] if high[n] > ceiling}
            if sum(copies.values()) <= _MOST_COPIES:
                return ceiling, copies
    return 0.0, {}


def _spaced(values: FloatArray, copies: FloatArray, idle: int) -> FloatArray:
    """``values`` [..., n] with ``copies`` [..., m] after them, each followed by a zero, and ``idle`` zeros in between."""
    added = np.zeros((*copies.shape[:-1], idle + 2 * copies.shape[-1]), np.float32)
    added[..., idle::2] = copies
    return np.concatenate([values, added], axis=-1)
