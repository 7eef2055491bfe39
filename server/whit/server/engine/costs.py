"""What a micro-batch of a model costs here, learned from those that run: no time at load, and true under today's load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DECAY = 0.98  # weight of the past at each micro-batch: about the last fifty count
_RIDGE = 1e-3  # pull towards "as many seconds a token as on average", for when all micro-batches were alike
# A machine that stood still for a while must not make every deadline look hopeless afterwards.
_LARGEST_SURPRISE = 4.0
_CHECK_EVERY = 16  # micro-batches: so many run against an estimate at least once, or the error would never be known
_UNKNOWN_WAIT_S = 1.0
_SHORTEST_WAIT_S = 0.05
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """A micro-batch that ran: its tokens, the cells of its attention grids, and the seconds that it took."""

    token_count: int
    cell_count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one worker: for a run as such, for each token, and for each cell of the attention grids.

    ``run_count`` micro-batches were seen in all; ``relative_error`` is how far the recent ones were off what had been
    predicted, their seconds summed (0.1: a tenth), None while none was predicted.
    """

    run_s: float
    token_s: float
    cell_s: float
    run_count: int = 0
    relative_error: float | None = None

    def seconds(self, token_count: int, cell_count: int) -> float:
        """How long one micro-batch takes; a sequence of attention length n has n * n cells."""
        return self.run_s + self.token_s * token_count + self.cell_s * cell_count

    def tokens_within(self, seconds: float, attention_length: int) -> int:
        """Tokens of the largest micro-batch of one attention length that takes no longer; may be 0."""
        each = self.token_s + self.cell_s * attention_length
        return max(0, int((seconds - self.run_s) / each)) if each > 0 else 0


class CostModel:
    """Weighted least squares with exponential forgetting over (1, tokens, cells), no coefficient below zero.

    A micro-batch weighs 1 / tokens, since the larger a run, the larger its noise.
    """

    def __init__(self) -> None:
        self._moments = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._tokens = 0.0
        self._seconds = 0.0
        self._run_count = 0
        self._checked_seconds = 0.0
        self._missed_seconds = 0.0
        self._costs: Costs | None = None

    @property
    def costs(self) -> Costs | None:
        """The present estimate; None before the first micro-batch."""
        if self._costs is None and self._tokens:
            run_s, token_s, cell_s = (float(value) for value in self._solve())
            error = self._missed_seconds / self._checked_seconds if self._checked_seconds else None
            self._costs = Costs(run_s, token_s, cell_s, self._run_count, error)
        return self._costs

    def add(self, token_count: int, cell_count: int, seconds: float) -> None:
        """Notes one micro-batch."""
        self._run_count += 1
        predicted_by = self.costs if self._run_count % _CHECK_EVERY == 0 else self._costs
        if predicted_by is not None:
            predicted = predicted_by.seconds(token_count, cell_count)
            seconds = min(seconds, _LARGEST_SURPRISE * predicted)
            self._checked_seconds = _DECAY * self._checked_seconds + seconds
            self._missed_seconds = _DECAY * self._missed_seconds + abs(seconds - predicted)
        row = np.array([1.0, token_count, cell_count])
        self._moments = _DECAY * self._moments + np.outer(row, row) / token_count
        self._products = _DECAY * self._products + row * (seconds / token_count)
        self._tokens = _DECAY * self._tokens + token_count
        self._seconds = _DECAY * self._seconds + seconds
        self._costs = None

    def token_s(self) -> float | None:
        """Seconds of one worker a token in the present mix of work; None before the first micro-batch."""
        return self._seconds / self._tokens if self._tokens else None

    def wait_s(self, token_count: int, worker_count: int) -> float:
        """Estimated seconds until ``worker_count`` workers have run so many tokens; 1 s before anything was measured."""
        token_s = self.token_s()
        if token_s is None:
            return _UNKNOWN_WAIT_S
        return min(max(token_count * token_s / worker_count, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)

    def _solve(self) -> NDArray[np.float64]:
        prior = np.array([0.0, self._seconds / self._tokens, 0.0])
        ridge = _RIDGE * np.diag(np.diag(self._moments))
        moments, products = self._moments + ridge, self._products + ridge @ prior
        used = [column for column in range(3) if moments[column, column] > 0]
        while True:
            found = np.zeros(3)
            found[used] = np.linalg.solve(moments[np.ix_(used, used)], products[used])
            worst = int(np.argmin(found))
            if found[worst] >= 0 or len(used) == 1:
                return np.maximum(found, 0.0)
            used.remove(worst)
