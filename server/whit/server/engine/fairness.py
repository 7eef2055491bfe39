"""Who is served next: two lanes with weights, and within a lane every call alike. Pure bookkeeping, no clock but its own.

Both levels are start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996; nested as in Goyal, Guo and Vin, OSDI
1996): whoever has work waiting has a *start tag*, the smallest tag is served, and what is served is charged to it as
tokens divided by weight. Who comes back after having had nothing to do starts at the present *virtual time*, so nobody
saves up credit by being idle, and a tag that waits is passed by in the end: that is the ageing.

Were that all, calls of one size would advance together, and under overload all of them would end too late. So once a call
has led a micro-batch, only calls that need less than what is left of it have turns beside it (as with the shortest
remaining time first, Schrage, Operations Research 1968); others wait until it ends. And what is served is charged to it in
whole quanta, or when nothing more of it waits: up to that nobody takes its turn.

Within a lane, virtual time also moves on with the service given, by tokens / number of flows (the rule of WF2Q+,
Bennett and Zhang, SIGCOMM 1996). Else an endless arrival of new small calls, which all start at the virtual time, would
stop the clock and starve a large one.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

from whit.server.engine.jobs import Job
from whit.server.engine.types import Flow, Lane

# While both lanes have work, bulk gets at least one token in four.
WEIGHTS = {Lane.INTERACTIVE: 3, Lane.BULK: 1}


class Line:
    """Jobs in the order of their flows' tags; of equals the one that came first.

    Tags only grow, so an entry may be out of date but never too late: it is put right when it comes up. Jobs that have
    left are skipped, and swept out once they are the larger part.
    """

    def __init__(self, waits: Callable[[Job], bool]) -> None:
        """Makes an empty line; ``waits`` tells whether a job that was added still stands in it."""
        self._waits = waits
        self._entries: list[tuple[float, int, Job]] = []
        self._count = 0

    def add(self, job: Job) -> None:
        """Puts a job in, once."""
        heapq.heappush(self._entries, (job.flow.tag, job.arrival, job))
        self._count += 1

    def remove(self, job: Job) -> None:
        """Notes that a job has left: ``waits`` is false for it already."""
        self._count -= 1
        if len(self._entries) > 2 * self._count:
            self._entries = [entry for entry in self._entries if self._waits(entry[2])]
            heapq.heapify(self._entries)

    def __len__(self) -> int:
        return self._count

    def jobs(self) -> Iterator[Job]:
        """All jobs that stand in the line, in no order."""
        return (job for _, _, job in self._entries if self._waits(job))

    def first(self) -> Job | None:
        """The job whose turn it is, left in place."""
        while self._entries:
            tag, arrival, job = self._entries[0]
            if not self._waits(job):
                heapq.heappop(self._entries)
            elif job.flow.tag > tag:
                heapq.heapreplace(self._entries, (job.flow.tag, arrival, job))
            else:
                return job
        return None


class _LaneQueue:
    """The waiting jobs of one lane, and its own place among the lanes."""

    def __init__(self, weight: int, quantum: int) -> None:
        self.weight = weight
        self._quantum = quantum
        self.tag = 0.0
        self.flows: dict[Flow, int] = {}  # how many waiting jobs each has
        self._large: dict[Flow, None] = {}  # had more waiting than a quantum when they came
        self._waiting_tokens = 0
        self._line = Line(lambda job: bool(job.groups))
        self._begun: dict[Job, None] = {}  # led a micro-batch, and have more
        self._virtual_time = 0.0
        self._in_service = 0.0  # by how much it moves on when what was charged last has been served

    def add(self, job: Job) -> None:
        if job.flow not in self.flows:
            job.flow.tag = max(job.flow.tag, self._virtual_time)
        self.flows[job.flow] = self.flows.get(job.flow, 0) + 1
        self._line.add(job)
        self._waiting_tokens += job.waiting_tokens
        job.flow.waiting_tokens += job.waiting_tokens
        if job.flow.waiting_tokens > self._quantum:
            self._large[job.flow] = None

    def remove(self, job: Job) -> None:
        self._settle(job.flow)
        self.flows[job.flow] -= 1
        if not self.flows[job.flow]:
            del self.flows[job.flow]
            self._large.pop(job.flow, None)
        self._begun.pop(job, None)
        self._line.remove(job)

    def leader(self) -> Job:
        job = self._first_up_to(min(self._begun, key=_left)) if self._begun else self._line.first()
        assert job is not None, "only asked while jobs wait"
        self._begun[job] = None
        self._virtual_time = max(self._virtual_time + self._in_service, job.flow.tag)
        self._in_service = 0.0
        return job

    def _first_up_to(self, begun: Job) -> Job:
        """Whose turn it is among a job that has begun and those that need less than what is left of it."""
        smaller = (job for job in self._line.jobs() if _left(job) < _left(begun))
        return min(itertools.chain((begun,), smaller), key=lambda job: (job.flow.tag, job.arrival))

    def charge(self, job: Job, token_count: int) -> None:
        job.flow.owed += token_count
        if job.flow.owed >= self._quantum:
            self._settle(job.flow)
        self._in_service += token_count / len(self.flows)
        self.tag += token_count / self.weight

    def leave(self, job: Job, token_count: int) -> None:
        self._waiting_tokens -= token_count
        job.flow.waiting_tokens -= token_count

    def tokens_ahead(self, token_count: int) -> int:
        most = max(token_count, self._quantum)
        return self._waiting_tokens - sum(max(0, flow.waiting_tokens - most) for flow in self._large)

    @staticmethod
    def _settle(flow: Flow) -> None:
        flow.tag += flow.owed
        flow.owed = 0


def _left(job: Job) -> int:
    return job.waiting_tokens


class Turns:
    """Whose turn it is among all waiting jobs of both lanes, of all models."""

    def __init__(self, quantum: int) -> None:
        """Nobody waits yet. ``quantum``: tokens of a call that are served before it is charged, about a micro-batch."""
        self._lanes = {lane: _LaneQueue(weight, quantum) for lane, weight in WEIGHTS.items()}
        self._virtual_time = 0.0

    def add(self, job: Job) -> None:
        """A job with waiting work enters."""
        lane = self._lanes[job.lane]
        if not lane.flows:
            lane.tag = max(lane.tag, self._virtual_time)
        lane.add(job)

    def remove(self, job: Job) -> None:
        """A job has no more waiting work."""
        self._lanes[job.lane].remove(job)

    def charge(self, job: Job, token_count: int) -> None:
        """So many tokens of a job that is still here are being run."""
        self._lanes[job.lane].charge(job, token_count)

    def leader(self, only: Lane | None = None) -> Job | None:
        """The job that leads the next micro-batch, of one lane only if asked; None if none waits.

        Interactive goes first where lanes are equal.
        """
        waiting = [lane for name, lane in self._lanes.items() if lane.flows and only in (None, name)]
        if not waiting:
            return None
        lane = min(waiting, key=lambda lane: lane.tag)  # min keeps the first of equals
        self._virtual_time = max(self._virtual_time, lane.tag)
        return lane.leader()

    def leave(self, job: Job, token_count: int) -> None:
        """So many tokens of a job no longer wait, whether they are run or dropped."""
        self._lanes[job.lane].leave(job, token_count)

    def tokens_ahead(self, lane: Lane, token_count: int) -> int:
        """Tokens of a lane that are served before a job of so many ends that comes now.

        Of each flow as much as the job has itself, or a quantum; the other lane is not counted.
        """
        return self._lanes[lane].tokens_ahead(token_count)
