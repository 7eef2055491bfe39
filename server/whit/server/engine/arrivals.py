"""How jobs come: one after the other, together, and in which lane. What is best for a lone one is not for many."""

from __future__ import annotations

from whit.server.engine.types import Lane

# For so long after an interactive job came, others are to be expected, which may need more than the express worker.
_INTERACTIVE_MEMORY_S = 2.0

# Nothing has ended for so long: calls that come closer together would all run in the thread that they come in.
_PAUSE_S = 0.001

# For so long after two jobs met here, each is better off with a core of its own than with several in turns.
_MEETING_MEMORY_S = 0.1


class Arrivals:
    """Notes when jobs come and end, in the scheduler's seconds."""

    def __init__(self) -> None:
        self._interactive_time = self._end_time = self._meeting_time = float("-inf")

    def come(self, now: float, *, meets: bool) -> None:
        """A job is here; ``meets``: while another one waits or runs."""
        if meets:
            self._meeting_time = now

    def queued(self, now: float, lane: Lane) -> None:
        """A job waits for workers."""
        if lane is Lane.INTERACTIVE:
            self._interactive_time = now

    def end(self, now: float) -> None:
        """A micro-batch has run."""
        self._end_time = now

    def expects_interactive(self, now: float) -> bool:
        """Whether interactive jobs have come lately."""
        return now - self._interactive_time < _INTERACTIVE_MEMORY_S

    def pauses(self, now: float) -> bool:
        """Whether nothing has just ended."""
        return now - self._end_time >= _PAUSE_S

    def singly(self, now: float) -> bool:
        """Whether no two jobs have met lately."""
        return now - self._meeting_time >= _MEETING_MEMORY_S
