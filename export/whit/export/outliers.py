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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Split:
    """How the outlier neurons of one layer are split: ``copies`` of each beside itself, all cut off at ``ceiling``."""

    ceiling: float
    copies: Mapping[int, int]

    def layer(self, layer: Layer) -> Layer:
        """The layer with its neurons split."""
        return replace(
            layer,
            up=Linear(self.spread(layer.up.weight), self.shifted(layer.up.bias)),
            down=Linear(self.spread(layer.down.weight.T).T.copy(), layer.down.bias),
            ceiling=self.ceiling,
        )

    def shifted(self, bias: FloatArray) -> FloatArray:
        """The bias of ``up``: that of the k-th copy is lower by k ceilings."""
        ordinals = [np.arange(1, count + 1, dtype=np.float32) for count in self.copies.values()]
        found = self.spread(bias)
        found[len(bias) + len(bias) % 2 :: 2] -= np.float32(self.ceiling) * np.concatenate(ordinals)
        return found

    def spread(self, values: FloatArray, idle: float = 0) -> FloatArray:
        """What belongs to each neuron, [..., n], with that of the copies after it, in the order of ``layer``.

        Beside each copy lies an ``idle`` neuron: two copies side by side would have to share the room of a pair
        (``rounding``).
        """
        source = [neuron for neuron, count in self.copies.items() for _ in range(count)]
        first = values.shape[-1] % 2
        added = np.full((*values.shape[:-1], first + 2 * len(source)), idle, np.float32)
        added[..., first::2] = values[..., source]
        return np.concatenate([values, added], axis=-1)


def can_split(weights: EncoderWeights) -> bool:
    """Whether the copies of a neuron of this encoder would add up to it."""
    return weights.activation in _CAN


def find_splits(weights: EncoderWeights, peaks: Mapping[str, FloatArray]) -> dict[int, Split]:
    """How to split the outlier neurons of each layer that has any, by its number; ``peaks`` as of ``neuron_peaks``."""
    uses = Counter(map(id, weights.layers))  # a layer that is run several times is stored once: it stays as it is
    found = {}
    for i, layer in enumerate(weights.layers):
        if f"layers.{i}.down" in peaks and uses[id(layer)] == 1:
            split = _find(peaks[f"layers.{i}.down"])
            if split is not None:
                found[i] = split
    return found


def split_outliers(weights: EncoderWeights, splits: Mapping[int, Split]) -> EncoderWeights:
    """The encoder with its outlier neurons split; the same object where there are none."""
    if not splits:
        return weights
    layers = [splits[i].layer(layer) if i in splits else layer for i, layer in enumerate(weights.layers)]
    return replace(weights, layers=layers)


def _find(high: FloatArray) -> Split | None:
    """The lowest ceiling that few copies can keep; ``high`` float32 [inner]: the largest value of each neuron."""
    largest = np.argsort(-high, kind="stable")[: _MOST_NEURONS + 1]
    for count in range(min(_MOST_NEURONS, len(high) - 1), 0, -1):
        ceiling = float(np.float32(_ROOM) * high[largest[count]])
        if 0 < ceiling <= _LEAST_GAIN * high[largest[0]]:
            copies = {int(n): int(np.ceil(high[n] / ceiling)) - 1 for n in largest[:count] if high[n] > ceiling}
            if sum(copies.values()) <= _MOST_COPIES:
                return Split(ceiling, copies)
    return None
