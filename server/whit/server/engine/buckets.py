"""Where jobs wait: a bucket for each model, depth and attention length, with a line for each lane.

A job stands in the lines of all its attention lengths. Pure bookkeeping: the scheduler calls it under its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from whit.server.engine.fairness import Line
from whit.server.engine.jobs import Depth, Job
from whit.server.engine.types import Lane


class Buckets:
    """All waiting jobs, found by what may be run together."""

    def __init__(self, mixes: Callable[[str, int], bool]) -> None:
        """Empty; ``mixes`` tells of which attention lengths sequences of a model may be run beside others."""
        self._mixes = mixes
        self._lines: dict[tuple[str, Depth, int], dict[Lane, Line]] = {}

    def add(self, job: Job) -> None:
        """Puts a job into the lines of its attention lengths."""
        for attention_length in job.groups:
            key = job.model_id, job.depth, attention_length
            if key not in self._lines:
                self._lines[key] = {lane: Line(partial(_waits_at, attention_length)) for lane in Lane}
            self._lines[key][job.lane].add(job)

    def remove(self, job: Job, attention_length: int) -> None:
        """Notes that a job has nothing more to run at an attention length: its group is gone already."""
        self._lines[job.model_id, job.depth, attention_length][job.lane].remove(job)

    def line(self, model_id: str, depth: Depth, attention_length: int, lane: Lane) -> Line:
        """The line of an attention length at which a job of the model waits."""
        return self._lines[model_id, depth, attention_length][lane]

    def company(self, model_id: str, depth: Depth, attention_length: int, lane: Lane) -> list[tuple[int, Line]]:
        """Other attention lengths that may be run beside this one, the nearest first, with their lines."""
        if not self._mixes(model_id, attention_length):
            return []
        found = [
            (other, lines[lane])
            for (of_model, at, other), lines in self._lines.items()
            if (of_model, at) == (model_id, depth) and other != attention_length
            if lines[lane] and self._mixes(model_id, other)
        ]
        return sorted(found, key=lambda entry: abs(entry[0] - attention_length))


def _waits_at(attention_length: int, job: Job) -> bool:
    return attention_length in job.groups
