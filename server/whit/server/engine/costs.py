"""What a micro-batch of a model costs here, learned from those that run: no time at load, and true under today's load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    def shared_pays(self, first: tuple[int, int], second: tuple[int, int]) -> bool:
        """Whether two groups, each so many sequences of an attention length, cost less in one run than in two.

        Together all are computed at the longer of the lengths; apart there is one more run.
        """
        (count, length), (more, other) = first, second
        padded = (count + more) * max(length, other) ** 2 - count * length**2 - more * other**2
        return self.cell_s * padded < self.run_s


class CostModel:
    """Weighted least squares with exponential forgetting over (1, tokens, cells), no coefficient below zero.

    A micro-batch weighs 1 / tokens, since the larger a run, the larger its noise. Written out in floats: the event loop asks for
    the estimate at every call with a deadline, and for three numbers numpy takes ten times as long.
    """

    def __init__(self) -> None:
        self._moments = [[0.0] * 3 for _ in range(3)]
        self._products = [0.0] * 3
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
            run_s, token_s, cell_s = self._solve()
            error = self._missed_seconds / self._checked_seconds if self._checked_seconds else None
            self._costs = Costs(run_s, token_s, cell_s, self._run_count, error)
        return self._costs

    def add(self, token_count: int, cell_count: int, seconds: float, share: float = 1.0) -> None:
        """Notes one micro-batch; ``share`` of the model's layers were run, and it is taken to cost that share of all."""
        self._run_count += 1
        predicted_by = self.costs if self._run_count % _CHECK_EVERY == 0 else self._costs
        if predicted_by is not None:
            predicted = share * predicted_by.seconds(token_count, cell_count)
            seconds = min(seconds, _LARGEST_SURPRISE * predicted)
            self._checked_seconds = _DECAY * self._checked_seconds + seconds
            self._missed_seconds = _DECAY * self._missed_seconds + abs(seconds - predicted)
        row = (share, share * token_count, share * cell_count)
        for i, value in enumerate(row):
            weighted = value / token_count
            self._moments[i] = [
                _DECAY * old + weighted * other for old, other in zip(self._moments[i], row, strict=True)
            ]
            self._products[i] = _DECAY * self._products[i] + weighted * seconds
        self._tokens = _DECAY * self._tokens + token_count
        self._seconds = _DECAY * self._seconds + seconds
        self._costs = None

    def token_s(self) -> float | None:
        """Seconds of one worker a token in the present mix of work; None before the first micro-batch."""
        return self._seconds / self._tokens if self._tokens else None

    def needed_s(
        self,
        token_count: int,
        cell_count: int,
        tokens_ahead: int,
        company_tokens: int,
        worker_count: int,
        share: float = 1.0,
    ) -> float | None:
        """Seconds until a job is done that has ``tokens_ahead`` before it, its last run shared with ``company_tokens``.

        ``share`` is that of the layers it is run with. None before anything was measured.
        """
        costs, token_s = self.costs, self.token_s()
        if costs is None or token_s is None:
            return None
        own_s = share * costs.seconds(token_count, cell_count)
        run_s = share * costs.run_s + token_s * company_tokens
        return token_s * tokens_ahead / worker_count + max(own_s / worker_count, run_s)

    def wait_s(self, token_count: int, worker_count: int) -> float:
        """Estimated seconds until ``worker_count`` workers have run so many tokens; 1 s before anything was measured."""
        token_s = self.token_s()
        if token_s is None:
            return _UNKNOWN_WAIT_S
        return min(max(token_count * token_s / worker_count, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)

    def _solve(self) -> list[float]:
        prior = (0.0, self._seconds / self._tokens, 0.0)
        moments, products = [list(line) for line in self._moments], list(self._products)
        for i in range(3):
            ridge = _RIDGE * moments[i][i]
            moments[i][i] += ridge
            products[i] += ridge * prior[i]
        used = [i for i in range(3) if moments[i][i] > 0]
        while True:
            found = [0.0] * 3
            part = _solved([[moments[i][j] for j in used] for i in used], [products[i] for i in used])
            for i, value in zip(used, part, strict=True):
                found[i] = value
            worst = min(range(3), key=found.__getitem__)
            if found[worst] >= 0 or len(used) == 1:
                return [max(value, 0.0) for value in found]
            used.remove(worst)


def _solved(matrix: list[list[float]], vector: Sequence[float]) -> list[float]:
    """The x of ``matrix @ x = vector``, by elimination; symmetric and positive definite, so that no pivoting is needed."""
    rows = [[*line, value] for line, value in zip(matrix, vector, strict=True)]
    size = len(rows)
    for i in range(size):
        for below in rows[i + 1 :]:
            factor = below[i] / rows[i][i]
            for j in range(i, size + 1):
                below[j] -= factor * rows[i][j]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (rows[i][size] - sum(rows[i][j] * found[j] for j in range(i + 1, size))) / rows[i][i]
    return found
