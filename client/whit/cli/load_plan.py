"""The arithmetic of ``whit load``: when requests are due, and what the answers say. Pure: no clock, no server, no sleep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OK = "OK"
LATE = "LATE"
"""Answered, but after the deadline."""
NOT_SENT = "NOT_SENT"
"""The deadline had passed before the generator came to send it: this machine is too slow for the rate."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. ``status`` is OK, LATE, NOT_SENT or the name of a gRPC status code.

    ``latency_s`` runs from the scheduled arrival to the end, so a request that had to wait for the generator or behind other
    requests counts that wait (no coordinated omission). ``lag_s`` is how long after its schedule it was sent.
    """

    latency_s: float
    lag_s: float
    status: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What one rate gave. Rates are requests a second; ``goodput`` counts requests answered within the deadline.

    ``latency_ms`` (by percentile, such as ``"p99"``, and ``"max"``) is over answered requests, late ones included; None if there was none.
    ``statuses`` counts all requests by outcome. ``retry_info_count`` is how many RESOURCE_EXHAUSTED said when to come back.
    ``lag_p99_ms`` is the generator's own delay: where it is not small beside the latencies, the generator is what was measured.
    """

    rate: float
    offered: float
    goodput: float
    request_count: int
    text_count: int
    duration_s: float
    latency_ms: Mapping[str, float] | None
    statuses: Mapping[str, int]
    retry_info_count: int
    lag_p99_ms: float

    @property
    def kept_share(self) -> float:
        """Goodput as a share of what was offered."""
        return self.goodput / self.offered if self.offered else 0.0


def arrival_times(rate: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Poisson arrivals: seconds from the start, ascending, all below ``duration_s``; the same for the same seed.

    Args:
        rate: mean arrivals a second, above 0.
        duration_s: length of the schedule, above 0.
        seed: of the generator.

    Raises:
        ValueError: the rate or the duration is not a positive number.
    """
    for name, value in (("rate", rate), ("duration_s", duration_s)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number, got {value}")
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, math.ceil(rate * duration_s) + 16)
    times = np.cumsum(gaps)
    while times[-1] < duration_s:
        times = np.concatenate([times, times[-1] + np.cumsum(random.exponential(1 / rate, 64))])
    return times[times < duration_s]


def batches(texts: Sequence[str], size: int, seed: int) -> Iterator[list[str]]:
    """Endless batches of ``size`` texts: all of them in a random order, again and again; the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    at = 0
    while True:
        yield [texts[order[(at + i) % len(order)]] for i in range(size)]
        at += size


def summarize(outcomes: Sequence[Outcome], *, rate: float, duration_s: float, texts_per_request: int) -> Report:
    """Counts and percentiles of what was sent at one rate over ``duration_s`` seconds of schedule."""
    statuses = Counter(outcome.status for outcome in outcomes)
    answered = [1e3 * outcome.latency_s for outcome in outcomes if outcome.status in (OK, LATE)]
    lags = [1e3 * outcome.lag_s for outcome in outcomes]
    hints = sum(outcome.status == "RESOURCE_EXHAUSTED" and outcome.retry_after_s is not None for outcome in outcomes)
    return Report(
        rate=rate,
        offered=len(outcomes) / duration_s,
        goodput=statuses[OK] / duration_s,
        request_count=len(outcomes),
        text_count=len(outcomes) * texts_per_request,
        duration_s=duration_s,
        latency_ms=latencies(answered) if answered else None,
        statuses=dict(sorted(statuses.items(), key=lambda entry: (entry[0] != OK, entry[0]))),
        retry_info_count=hints,
        lag_p99_ms=float(np.percentile(lags, 99)) if lags else 0.0,
    )


def latencies(values_ms: Sequence[float]) -> dict[str, float]:
    """Percentiles (the nearest rank at or above, so always a latency that occurred) and the maximum."""
    ordered = sorted(values_ms)
    ranks = {percent: math.ceil(round(percent / 100 * len(ordered), 6)) for percent in PERCENTILES}
    named = {f"p{percent:g}": float(ordered[max(rank, 1) - 1]) for percent, rank in ranks.items()}
    return {**named, "max": float(ordered[-1])}


def sweep(first_rate: float, factor: float, count: int) -> list[float]:
    """Rates of a sweep: ``first_rate`` times the powers of ``factor``, ``count`` of them."""
    return [first_rate * factor**i for i in range(count)]
