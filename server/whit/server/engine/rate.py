"""How fast a model runs here, measured as it runs."""

from __future__ import annotations

_DECAY = 0.9  # weight of the past at each micro-batch: about the last twenty count
_UNKNOWN_WAIT_S = 1.0
_SHORTEST_WAIT_S = 0.05
_LONGEST_WAIT_S = 60.0


class Rate:
    """Exponentially weighted tokens per second of one worker. Weighs by time, so that tiny micro-batches do not skew it."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, token_count: int, seconds: float) -> None:
        """Notes one micro-batch."""
        self._tokens = _DECAY * self._tokens + token_count
        self._seconds = _DECAY * self._seconds + seconds

    def wait_s(self, token_count: int, worker_count: int) -> float:
        """Estimated seconds until ``worker_count`` workers have run so many tokens; 1 s before anything was measured."""
        if not self._tokens:
            return _UNKNOWN_WAIT_S
        estimate = token_count * self._seconds / self._tokens / worker_count
        return min(max(estimate, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
