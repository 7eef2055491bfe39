"""Chooses codes for one linear layer and says what they cost.

Beside the weights' codes themselves (``rounding``), two things keep static int8 close to float, measured per layer on
calibration text:

- *Smoothing* (SmoothQuant, arXiv:2211.10438): a channel with large activations is divided by a factor before it is
  rounded and its weights are multiplied by it.
- *Bias correction* (arXiv:1906.04721, section 4.2): the mean error of each output moves into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from whit.export.calibrate import Activations
from whit.export.families import Linear
from whit.export.linear import Row, Scheme, Static
from whit.export.rounding import compensated_codes, nearest_codes

FloatArray = NDArray[np.float32]

# 1.0 would put every channel's largest value at the edge of the range: any unseen text would be clipped.
_SMOOTHING_EXPONENTS = (0.5, 0.7, 0.85)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute a layer.

    ``error`` is the root mean square error of its output on the sample, relative to the standard deviation of what the
    output becomes: itself, or its sum with the residual stream.
    """

    scheme: Static | Row
    error: float


@dataclass(frozen=True)
class Subject:
    """A layer to quantise.

    ``stream`` float32 [rows, out] is the residual stream that the output is added to, for the rows of the sample. The codes
    of a ``shared`` layer, one that is run at several places, must not depend on what it sees at one of them.
    """

    linear: Linear
    seen: Activations
    stream: FloatArray | None = None
    shared: bool = False

    @cached_property
    def wanted(self) -> FloatArray:
        """Its output on the sample, float32 [rows, out], but for the bias."""
        return np.asarray(self.seen.sample @ self.linear.weight, np.float32)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of what the output becomes."""
        sum_ = self.wanted if self.stream is None else self.wanted + self.stream
        return max(float((sum_ - sum_.mean(axis=0)).std()), 1e-12)


def choose_scheme(subject: Subject, max_error: float) -> tuple[str, Scheme, float]:
    """The cheapest scheme that keeps a layer's error within ``max_error``: its name, itself and its error.

    In order of cost: ``static``, ``smoothed``, ``row``. If none is within, the most exact of them, or ``float32`` where
    even that one is off by more than three times the limit. A ``shared`` layer is not smoothed: its codes would be of one place.
    """
    tried: list[tuple[str, Candidate]] = []
    for name, make in (("static", static_candidate), ("smoothed", smoothed_candidate), ("row", row_candidate)):
        if subject.shared and make is smoothed_candidate:
            continue
        candidate = make(subject)
        if candidate.error <= max_error:
            return name, candidate.scheme, candidate.error
        tried.append((name, candidate))
    name, best = min(tried, key=lambda entry: entry[1].error)
    return (name, best.scheme, best.error) if best.error <= 3 * max_error else ("float32", subject.linear, 0.0)


def static_candidate(subject: Subject, smoothing: FloatArray | None = None, *, compensated: bool = True) -> Candidate:
    """A static scheme.

    Args:
        subject: the layer.
        smoothing: float32 [in], multiplies the input before it is rounded.
        compensated: False leaves each weight at its nearest code, which is quicker to find.
    """
    seen = subject.seen
    factor = np.ones_like(seen.low) if smoothing is None else smoothing
    weight = subject.linear.weight / factor[:, None]
    scale, zero_point = activation_range(float((seen.low * factor).min()), float((seen.high * factor).max()))
    codes, weight_scales = nearest_codes(weight)
    if compensated and not subject.shared:
        moment = seen.covariance.astype(np.float64) * np.outer(factor, factor)
        moment += scale**2 / 12 * np.eye(len(moment))  # rounding is noise of this variance, in every channel
        codes = compensated_codes(weight, weight_scales, moment)
    rounded = _round_static(seen.sample * factor, scale, zero_point)
    bias, error = _correct(subject, rounded @ (codes * weight_scales))
    return Candidate(Static(codes.astype(np.int8), weight_scales, bias, scale, zero_point, smoothing), error)


def smoothed_candidate(subject: Subject) -> Candidate:
    """The best static scheme over a few smoothing strengths."""
    factors = [smoothing_factors(subject, exponent) for exponent in _SMOOTHING_EXPONENTS]
    errors = [static_candidate(subject, each, compensated=False).error for each in factors]
    return static_candidate(subject, factors[int(np.argmin(errors))])


def row_candidate(subject: Subject) -> Candidate:
    """A row scheme: one activation scale a token."""
    codes, weight_scales = nearest_codes(subject.linear.weight)
    if not subject.shared:
        codes = compensated_codes(subject.linear.weight, weight_scales, subject.seen.covariance.astype(np.float64))
    bias, error = _correct(subject, _round_rows(subject.seen.sample) @ (codes * weight_scales))
    return Candidate(Row(codes.astype(np.int8), weight_scales, bias), error)


def scheme_error(subject: Subject, scheme: Scheme) -> tuple[str, float]:
    """What a scheme is called in a manifest, and how far it is off beside a constant: see ``Candidate.error``."""
    sample = subject.seen.sample
    match scheme:
        case Linear():
            return "float32", 0.0
        case Static():
            name = "static" if scheme.smoothing is None else "smoothed"
            x = sample if scheme.smoothing is None else sample * scheme.smoothing
            rounded = _round_static(x, scheme.scale, scheme.zero_point)
        case Row():
            name, rounded = "row", _round_rows(sample)
    weight = scheme.codes * scheme.weight_scales
    return name, _correct(subject, rounded @ weight)[1]


def _round_static(x: FloatArray, scale: float, zero_point: int) -> FloatArray:
    codes = np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255)
    return np.asarray((codes - zero_point) * np.float32(scale), np.float32)


def _round_rows(x: FloatArray) -> FloatArray:
    scales = np.maximum(np.abs(x).max(axis=1, keepdims=True) / np.float32(127), np.float32(1e-30))
    return np.asarray(np.rint(x / scales) * scales, np.float32)


def smoothing_factors(subject: Subject, exponent: float) -> FloatArray:
    """Factors float32 [in] for the input: ``max|w|^(1-a) / max|x|^a`` per channel, scaled to a geometric mean of 1."""
    largest = np.maximum(np.maximum(subject.seen.high, -subject.seen.low), 1e-5)
    weights = np.maximum(np.abs(subject.linear.weight).max(axis=1), 1e-5)
    logs = (1 - exponent) * np.log(weights) - exponent * np.log(largest)
    factors: FloatArray = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def activation_range(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of u8 codes that cover ``low`` <= 0 <= ``high``; 0 and the one farther from it have codes."""
    scale = max(high - low, 1e-12) / 255
    zero_point = int(np.clip(round(-low / scale), 0, 255))
    scale = high / (255 - zero_point) if high > -low else -low / zero_point if zero_point else scale
    return float(np.float32(scale)), zero_point


def _correct(subject: Subject, found: FloatArray) -> tuple[FloatArray, float]:
    """The bias with the mean error taken out, and the error that is left."""
    difference = subject.wanted - found
    shift = difference.mean(axis=0)
    error = float((difference - shift).std()) / subject.spread
    return (subject.linear.bias + shift).astype(np.float32), error
