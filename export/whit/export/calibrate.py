"""What flows into each linear layer on calibration text: the only data that int8 compilation needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from whit.export.embed import micro_batch_feeds
from whit.export.encoder_graph import Head, build_graph, tap_outputs
from whit.export.families import EncoderWeights
from whit.export.linear import Plan
from whit.export.parallel import side_by_side
from whit.runtime.encoder import open_session
from whit.runtime.packing import TokenIds

FloatArray = NDArray[np.float32]

# Rows kept of each layer's input: enough that a larger sample changes no choice, small enough to try many scales.
SAMPLE_ROWS = 1536


@dataclass(frozen=True, slots=True)
class Calibration:
    """An encoder, and the token ids of the texts that show what flows through it."""

    weights: EncoderWeights
    head: Head
    sequences: Sequence[TokenIds]
    progress: Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True, slots=True)
class Activations:
    """The input of one linear layer, over all tokens, and a sample of rows float32 [<= SAMPLE_ROWS, in]."""

    low: FloatArray  # [in], at most 0
    high: FloatArray  # [in], at least 0
    covariance: FloatArray  # [in, in]
    sample: FloatArray


def calibrate(
    weights: EncoderWeights,
    head: Head,
    sequences: Sequence[TokenIds],
    progress: Callable[[int], None] = lambda tokens: None,
) -> Mapping[str, Activations]:
    """Runs the float32 graph over ``sequences`` and records the input of every linear layer, by name.

    The sample takes every n-th token, so that texts of all lengths are in it. ``progress`` is called with the tokens done.
    """
    token_count = sum(len(ids) for ids in sequences)
    stride = max(1, -(-token_count // SAMPLE_ROWS))
    lows: dict[str, FloatArray] = {}
    highs: dict[str, FloatArray] = {}
    sums: dict[str, FloatArray] = {}
    products: dict[str, FloatArray] = {}
    samples: dict[str, list[FloatArray]] = defaultdict(list)
    done = 0
    for inputs in _inputs(weights, head, sequences):
        for name, x in inputs.items():
            lows[name] = np.minimum(lows.get(name, 0), x.min(axis=0))
            highs[name] = np.maximum(highs.get(name, 0), x.max(axis=0))
            sums[name] = sums.get(name, 0) + x.sum(axis=0)
            products[name] = products.get(name, 0) + x.T @ x
            samples[name].append(x[-done % stride :: stride])
        done += len(x)
        progress(done)
    found = {}
    for name in sums:
        mean = sums[name] / done
        covariance = (products.pop(name) / done - np.outer(mean, mean)).astype(np.float32)
        found[name] = Activations(lows[name], highs[name], covariance, np.concatenate(samples.pop(name)))
    return found


def neuron_peaks(
    weights: EncoderWeights,
    head: Head,
    sequences: Sequence[TokenIds],
    progress: Callable[[int], None] = lambda tokens: None,
) -> Mapping[str, FloatArray]:
    """The largest value of each feed-forward neuron over ``sequences``, at least 0: float32 [inner], by the layer it goes into.

    These are the ``high`` of ``calibrate`` for the layers named ``down``, without what takes the most time there, the covariances.
    """
    highs: dict[str, FloatArray] = {}
    done = 0
    for inputs in _inputs(weights, head, sequences, ".down"):
        for name, x in inputs.items():
            highs[name] = np.maximum(highs.get(name, 0), x.max(axis=0))
        done += len(x)
        progress(done)
    return highs


def _inputs(
    weights: EncoderWeights, head: Head, sequences: Sequence[TokenIds], part: str = ""
) -> Iterator[Mapping[str, FloatArray]]:
    """Of each micro-batch the input float32 [tokens, in] of every linear layer whose name ends in ``part``, by name."""
    taps: dict[str, str] = {}
    session = open_session(build_graph(weights, head, Plan(), taps=taps).SerializeToString())
    taps = {name: output for name, output in taps.items() if name.endswith(part)}
    outputs = tap_outputs(taps)
    feeds = [feed for _, feed in micro_batch_feeds(weights, sequences)]
    for arrays in side_by_side(partial(session.run, outputs), feeds):
        values = dict(zip(outputs, arrays, strict=True))
        yield {name: values[output] for name, output in taps.items()}
