"""Work on its way through the scheduler: jobs (one a call), their waiting sequences, and micro-batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whit.contract.errors import Problem
from whit.server.engine.types import Flow, Lane, TokenIds


class Waiting(NamedTuple):
    """A sequence that no worker has started: its row in the job's vectors and its token ids."""

    row: int
    ids: TokenIds


class Depth(NamedTuple):
    """With how many of a model's layers sequences are run, 0 for all, and what share of all layers that is."""

    layer_count: int = 0
    share: float = 1.0


ALL_LAYERS = Depth()


@dataclass(eq=False, slots=True)
class Job:
    """The sequences of one call and the array that their vectors go to.

    The caller fills in the first block; the second belongs to the scheduler, under its lock. ``on_done`` is called
    exactly once, from any thread and sometimes under that lock, when every vector is written or ``problem`` is set: it must
    neither block nor call the scheduler.

    Attributes:
        depth: with how many layers its sequences are run: only those of one depth share a micro-batch.
        flow: jobs of one flow share a turn, in order of arrival; a job is one of its own unless told otherwise.
        groups: the waiting sequences by attention length, each in the order of the call; emptied as work starts.
        vectors: float32 [items, dimension_count]; a sequence writes its own row and no other.
        deadline: ``time.monotonic()`` seconds after which starting work is useless; None for never.
        patient: park when the queue is full, instead of being refused.
        waiting_tokens: tokens of the sequences that no worker has started.
        waiting_cells: cells of their attention grids, a sequence's attention length squared.
        unfinished: sequences without a vector.
        arrival: rank by age, set when the job enters the queue.
    """

    model_id: str
    groups: dict[int, deque[Waiting]]
    vectors: NDArray[np.float32]
    lane: Lane
    deadline: float | None
    patient: bool
    depth: Depth = ALL_LAYERS
    on_done: Callable[[], object] = lambda: None
    flow: Flow = field(default_factory=Flow)

    waiting_tokens: int = field(init=False)
    waiting_cells: int = field(init=False)
    unfinished: int = field(init=False)
    arrival: int = field(init=False, default=-1)
    settled: bool = field(init=False, default=False)
    problem: Problem | None = field(init=False, default=None)
    submit_time: float = field(init=False, default=0.0)
    last_start_time: float = field(init=False, default=0.0)
    infer_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.waiting_tokens = self.waiting_cells = self.unfinished = 0
        for length, group in self.groups.items():
            self.unfinished += len(group)
            self.waiting_cells += length * length * len(group)
            for waiting in group:
                self.waiting_tokens += len(waiting.ids)

    @property
    def begun(self) -> bool:
        """Whether a part of it was started."""
        return self.last_start_time > 0


@dataclass(slots=True)
class Draft:
    """A micro-batch in the making."""

    budget_tokens: int
    grid_length: int  # the longest attention length in it
    entries: list[tuple[Job, Waiting]] = field(default_factory=list)
    token_count: int = 0

    @property
    def room_tokens(self) -> int:
        """Tokens that it has room for."""
        return self.budget_tokens - self.token_count

    def take(self, job: Job, attention_length: int) -> tuple[int, int]:
        """Moves what fits of a job's group into it, at least one sequence if it is empty; how many, and their tokens."""
        group, before, count = job.groups[attention_length], self.token_count, len(self.entries)
        while group and (not self.entries or len(group[0].ids) <= self.room_tokens):
            waiting = group.popleft()
            self.entries.append((job, waiting))
            self.token_count += len(waiting.ids)
        return len(self.entries) - count, self.token_count - before


class MicroBatch(NamedTuple):
    """What a worker runs at once: sequences of one model in a grid of one attention length, from any number of jobs."""

    number: int  # counts up; the log and the error of a failed micro-batch carry it
    model_id: str
    lane: Lane  # of the job that leads it
    attention_length: int
    entries: list[tuple[Job, Waiting]]
    token_count: int
    start_time: float  # time.monotonic()
    depth: Depth = ALL_LAYERS
    core_count: int = 1  # that compute it together

    @property
    def layer_count(self) -> int:
        """With how many layers to run it; 0 for all."""
        return self.depth.layer_count

    @property
    def cell_count(self) -> int:
        """Cells of the attention grids."""
        return self.attention_length * self.attention_length * len(self.entries)

    def fields(self, end_time: float) -> dict[str, object]:
        """What a log says about it; ``end_time`` is ``time.monotonic()`` seconds."""
        return {
            "number": self.number,
            "model": self.model_id,
            "lane": self.lane.value,
            "attention_length": self.attention_length,
            "layers": self.layer_count or "all",
            "sequences": len(self.entries),
            "tokens": self.token_count,
            "cores": self.core_count,
            "ms": round(1e3 * (end_time - self.start_time), 1),
        }
