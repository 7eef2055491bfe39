"""Jobs and schedulers for unit tests that drive the scheduler step by step from one thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from whit.server.engine.jobs import ALL_LAYERS, Depth, Job, MicroBatch, Waiting
from whit.server.engine.lone import Loan, Size
from whit.server.engine.scheduler import Scheduler
from whit.server.engine.types import Flow, Lane

BUCKET = 16


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_scheduler(
    *,
    models: Sequence[str] = ("m",),
    workers: int = 1,
    queue: int = 10_000,
    budget: int = 512,
    mixes: Callable[[str, int], bool] = lambda _model_id, _attention_length: False,
    most_cores: Callable[[str], int] = lambda _model_id: 1,
    clock: Callable[[], float] = time.monotonic,
) -> Scheduler:
    """A scheduler with small limits."""
    return Scheduler(
        models,
        worker_count=workers,
        queue_token_count=queue,
        micro_batch_token_count=budget,
        mixes=mixes,
        most_cores=most_cores,
        clock=clock,
    )


def make_job(
    lengths: Sequence[int],
    *,
    model: str = "m",
    patient: bool = False,
    deadline: float | None = None,
    lane: Lane = Lane.INTERACTIVE,
    flow: Flow | None = None,
    depth: Depth = ALL_LAYERS,
) -> tuple[Job, list[None]]:
    """A job of sequences of so many tokens, and the list that gets an entry each time it is settled."""
    groups: dict[int, deque[Waiting]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(-(-length // BUCKET) * BUCKET, deque()).append(Waiting(row, np.zeros(length, np.int64)))
    calls: list[None] = []
    job = Job(
        model_id=model,
        groups=groups,
        vectors=np.zeros((len(lengths), 4), np.float32),
        lane=lane,
        deadline=deadline,
        patient=patient,
        depth=depth,
        on_done=lambda: calls.append(None),
        flow=flow or Flow(),
    )
    return job, calls


def take(scheduler: Scheduler) -> MicroBatch:
    """The next micro-batch; there must be one."""
    lanes = scheduler.statistics().lanes.values()
    assert any(lane.waiting_job_count for lane in lanes), "it would wait for ever"
    batch = scheduler.take()
    assert batch is not None
    return batch


def rows(batch: MicroBatch) -> list[tuple[Job, int]]:
    """What is in a micro-batch: job and row."""
    return [(job, waiting.row) for job, waiting in batch.entries]


def has_work(scheduler: Scheduler, models: Sequence[str] = ("m",)) -> bool:
    """Whether anything admitted waits."""
    return any(scheduler.waiting_tokens(model) for model in models)


def measured(scheduler: Scheduler, clock: Clock, *, run_s: float, cell_s: float) -> None:
    """Lets the scheduler learn what runs cost: one of a few cells and one of many."""
    for length in (16, 64, 16, 64):
        scheduler.submit(make_job([length])[0])
        batch = take(scheduler)
        clock.now += run_s + cell_s * batch.cell_count
        scheduler.finish(batch)


def lend(scheduler: Scheduler, *lengths: int, is_instant: bool = False) -> Loan | None:
    """Asks for leave to run sequences of these lengths at once, all in one micro-batch."""
    cells = sum((-(-length // BUCKET) * BUCKET) ** 2 for length in lengths)
    size = Size(len(lengths), sum(lengths), cells, 1)
    return scheduler.lend("m", Lane.INTERACTIVE, ALL_LAYERS, size, is_instant=is_instant)


@contextlib.contextmanager
def idle_workers(scheduler: Scheduler, count: int) -> Iterator[list[MicroBatch | None]]:
    """So many threads that wait for work; yields the micro-batches that they take, one each."""
    taken: list[MicroBatch | None] = []
    threads = [threading.Thread(target=lambda: taken.append(scheduler.take())) for _ in range(count)]
    for thread in threads:
        thread.start()
    while scheduler.idle_worker_count < count:
        pass
    try:
        yield taken
    finally:
        scheduler.stop()
        for thread in threads:
            thread.join()
