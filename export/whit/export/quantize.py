"""Chooses codes for one linear layer and says what they cost.

Three things keep static int8 close to float, all measured per layer on calibration text:

- *Saturation-free weights.* CPUs without VNNI multiply u8 by s8 in pairs and add the pair in 16 bits, which overflows for
  large weights (onnxruntime's quantisation guide, "U8S8"). We bound each pair of neighbouring weights so that no input
  can overflow it. The same package then gives the same integers on every CPU, at a fraction of the error that the usual
  7-bit weights cost.
- *Smoothing* (SmoothQuant, arXiv:2211.10438): a channel with large activations is divided by a factor before it is
  rounded and its weights are multiplied by it.
- *Bias correction* (arXiv:1906.04721, section 4.2): the mean error of each output moves into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whit.export.calibrate import Activations
from whit.export.families import Linear
from whit.export.linear import Row, Scheme, Static

FloatArray = NDArray[np.float32]

# 255 * (w1 + w2) stays below 2**15 for weights of one sign; opposite signs cannot overflow.
PAIR_LIMIT = 128
_SCALE_GRID = np.linspace(0.85, 1.25, 9, dtype=np.float32)
# 1.0 would put every channel's largest value at the edge of the range: any unseen text would be clipped.
_SMOOTHING_EXPONENTS = (0.5, 0.7, 0.85)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute a layer.

    ``error`` is the root mean square error of its output on the sample, relative to the output's standard deviation.
    """

    scheme: Static | Row
    error: float


def quantize_weight(weight: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Saturation-free int8 codes.

    Args:
        weight: float32 [in, out].

    Returns:
        codes int8 [in, out] in [-127, 127], where rows 2i and 2i+1 add up to at most 128 in absolute value if they have
        one sign; scales float32 [out], each the one of a grid that leaves the least squared error.
    """
    base = np.abs(weight).max(axis=0) / np.float32(127)
    base = np.where(base > 0, base, np.float32(1))
    best_scales = base
    best_errors = np.full(weight.shape[1], np.inf, np.float32)
    for factor in _SCALE_GRID:
        scales = base * factor
        difference = _codes(weight, scales) * scales - weight
        errors = np.einsum("ij,ij->j", difference, difference)
        best_scales = np.where(errors < best_errors, scales, best_scales)
        best_errors = np.minimum(errors, best_errors)
    return _codes(weight, best_scales).astype(np.int8), best_scales


def _codes(weight: FloatArray, scales: FloatArray) -> FloatArray:
    codes = weight * np.reciprocal(scales)
    np.rint(codes, out=codes)
    np.clip(codes, -127, 127, out=codes)
    return limit_pairs(codes)


def limit_pairs(codes: FloatArray) -> FloatArray:
    """Brings each pair of rows (2i, 2i+1) of one sign down to a sum of PAIR_LIMIT, taking evenly from both."""
    if len(codes) % 2:
        return limit_pairs(np.concatenate([codes, np.zeros_like(codes[:1])]))[:-1]
    pairs = codes.reshape(-1, 2, codes.shape[1])
    first, second = pairs[:, 0], pairs[:, 1]
    # Of opposite signs, the sum is at most 127 and nothing is over.
    over = np.nonzero(np.abs(first + second) > PAIR_LIMIT)
    a, b = first[over], second[over]
    excess = np.abs(a + b) - PAIR_LIMIT
    from_first = np.ceil(excess / 2)
    limited = pairs.copy()
    limited[:, 0][over] = a - np.sign(a) * from_first
    limited[:, 1][over] = b - np.sign(b) * (excess - from_first)
    return limited.reshape(codes.shape)


def choose_scheme(linear: Linear, seen: Activations, max_error: float) -> tuple[str, Scheme, float]:
    """The cheapest scheme that keeps a layer's error within ``max_error``: its name, itself and its error.

    In order of cost: ``static``, ``smoothed``, ``row``. If none is within, the most exact of them, or ``float32`` where
    even that one is off by more than three times the limit.
    """
    tried: list[tuple[str, Candidate]] = []
    for name, make in (("static", static_candidate), ("smoothed", smoothed_candidate), ("row", row_candidate)):
        candidate = make(linear, seen)
        if candidate.error <= max_error:
            return name, candidate.scheme, candidate.error
        tried.append((name, candidate))
    name, best = min(tried, key=lambda entry: entry[1].error)
    return (name, best.scheme, best.error) if best.error <= 3 * max_error else ("float32", linear, 0.0)


def static_candidate(linear: Linear, seen: Activations, smoothing: FloatArray | None = None) -> Candidate:
    """A static scheme. ``smoothing`` float32 [in] multiplies the input before it is rounded."""
    factor = np.ones_like(seen.low) if smoothing is None else smoothing
    weight = linear.weight / factor[:, None]
    scale, zero_point = activation_range(float((seen.low * factor).min()), float((seen.high * factor).max()))
    codes, weight_scales = quantize_weight(weight)
    x = seen.sample * factor
    rounded = (np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255) - zero_point) * np.float32(scale)
    bias, error = _correct(linear, seen.sample, rounded @ (codes * weight_scales))
    return Candidate(Static(codes, weight_scales, bias, scale, zero_point, smoothing), error)


def smoothed_candidate(linear: Linear, seen: Activations) -> Candidate:
    """The best static scheme over a few smoothing strengths."""
    options = [static_candidate(linear, seen, smoothing_factors(linear, seen, e)) for e in _SMOOTHING_EXPONENTS]
    return min(options, key=lambda candidate: candidate.error)


def row_candidate(linear: Linear, seen: Activations) -> Candidate:
    """A row scheme: one activation scale a token."""
    codes, weight_scales = quantize_weight(linear.weight)
    scales = np.maximum(np.abs(seen.sample).max(axis=1, keepdims=True) / np.float32(127), np.float32(1e-30))
    rounded = np.rint(seen.sample / scales) * scales
    bias, error = _correct(linear, seen.sample, rounded @ (codes * weight_scales))
    return Candidate(Row(codes, weight_scales, bias), error)


def smoothing_factors(linear: Linear, seen: Activations, exponent: float) -> FloatArray:
    """Factors float32 [in] for the input: ``max|w|^(1-a) / max|x|^a`` per channel, scaled to a geometric mean of 1."""
    largest = np.maximum(np.maximum(seen.high, -seen.low), 1e-5)
    weights = np.maximum(np.abs(linear.weight).max(axis=1), 1e-5)
    logs = (1 - exponent) * np.log(weights) - exponent * np.log(largest)
    factors: FloatArray = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def activation_range(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of u8 codes that cover ``low`` <= 0 <= ``high``; 0 has a code of its own."""
    scale = max(high - low, 1e-12) / 255
    return float(np.float32(scale)), int(np.clip(round(-low / scale), 0, 255))


def _correct(linear: Linear, x: FloatArray, found: FloatArray) -> tuple[FloatArray, float]:
    """The bias with the mean error taken out, and the error that is left."""
    wanted = x @ linear.weight
    difference = wanted - found
    shift = difference.mean(axis=0)
    spread = float((wanted - wanted.mean(axis=0)).std())
    error = float((difference - shift).std()) / max(spread, 1e-12)
    return (linear.bias + shift).astype(np.float32), error
