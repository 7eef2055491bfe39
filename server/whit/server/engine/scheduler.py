"""Which work runs next. One scheduler serves all models of the process; worker threads pull micro-batches from it.

A micro-batch takes the oldest waiting sequence and fills up, in order of arrival and across calls, with sequences of
the same model and the same attention length, until the token budget is reached. Equal attention length is what makes a
vector independent of its batch mates; see ``docs/ARCHITECTURE.md``. Work never waits for company, and idle workers
block: there is no polling, spinning or batching delay.

Thread-safe. Knows no asyncio: a job says through ``on_done`` that it is settled.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from whit.contract.errors import Problem
from whit.server.engine import problems
from whit.server.engine.admission import Admission
from whit.server.engine.jobs import Job, MicroBatch, Waiting
from whit.server.engine.rate import Rate

# Below this, sharing work among idle workers costs more than it gains: every run reads all the weights.
_MIN_SHARE_TOKENS = 64

_BucketKey = tuple[str, int]  # model id, attention length


class Scheduler:
    """The waiting work of all models, in buckets of one model and one attention length.

    A bucket maps each job, in order of arrival, to its waiting sequences of that length. So the oldest work is found
    among the heads of a few buckets, and a job is dropped without searching for its sequences.
    """

    def __init__(
        self, model_ids: Iterable[str], *, worker_count: int, queue_token_count: int, micro_batch_token_count: int
    ) -> None:
        self._worker_count = worker_count
        self._micro_batch_token_count = micro_batch_token_count
        self._admissions = {model_id: Admission(queue_token_count) for model_id in model_ids}
        self._rates = {model_id: Rate() for model_id in self._admissions}
        self._buckets: dict[_BucketKey, OrderedDict[Job, deque[Waiting]]] = {}
        self._waiting_tokens = 0  # in the buckets, over all models; parked jobs not counted
        self._idle_workers = 0
        self._arrivals = itertools.count()
        self._batch_numbers = itertools.count(1)
        self._stopped = False
        self._work = threading.Condition()

    # What the calls use. None of it blocks for longer than the lock is held, which is microseconds.

    def submit(self, job: Job) -> Problem | None:
        """Queues a job, or parks it if it is patient and there is no room; otherwise returns why it is refused."""
        with self._work:
            if self._stopped:
                return problems.shutting_down()
            job.submit_time = time.monotonic()
            admission = self._admissions[job.model_id]
            if admission.enter(job):
                self._enqueue(job)
            elif job.patient:
                admission.park(job)
            else:
                return self._queue_full(job.model_id, job.waiting_tokens)
            return None

    def full(self, model_id: str) -> Problem | None:
        """Why even the smallest job would be refused now, or None. Lets a call fail before any work is spent on it."""
        with self._work:
            return None if self._admissions[model_id].has_room(1) else self._queue_full(model_id, 1)

    def discard(self, job: Job) -> None:
        """Forgets a job whose caller has gone: what no worker has started never runs. Does nothing to a settled job."""
        with self._work:
            if not job.settled:
                job.settled = True
                self._withdraw(job)

    def waiting_tokens(self, model_id: str) -> int:
        """Tokens admitted for a model that no worker has started."""
        with self._work:
            return self._admissions[model_id].waiting_tokens

    @property
    def idle_worker_count(self) -> int:
        """Workers that wait for work."""
        return self._idle_workers

    def stop(self) -> None:
        """Settles every waiting job with SHUTTING_DOWN and lets the workers go as they finish what they run."""
        with self._work:
            self._stopped = True
            while self._buckets:  # a job that leaves may let a parked one in
                bucket = next(iter(self._buckets.values()))
                self._fail(next(iter(bucket)), problems.shutting_down())
            self._work.notify_all()

    # What the workers use.

    def take(self) -> MicroBatch | None:
        """The next micro-batch; blocks while there is none. None when the scheduler is stopped."""
        with self._work:
            while not self._stopped:
                batch = self._next_batch()
                if batch is not None:
                    return batch
                self._idle_workers += 1
                self._work.wait()
                self._idle_workers -= 1
            return None

    def finish(self, batch: MicroBatch, problem: Problem | None = None) -> None:
        """Notes that a micro-batch ran: its vectors are written, or ``problem`` fails every job that was in it."""
        with self._work:
            seconds = time.monotonic() - batch.start_time
            if problem is None:
                self._rates[batch.model_id].add(batch.token_count, seconds)
            for job in {job: None for job, _ in batch.entries}:
                job.infer_s += seconds
            for job, _ in batch.entries:
                job.unfinished -= 1
                if problem is not None:
                    self._fail(job, problem)
                elif job.unfinished == 0:
                    self._settle(job)

    # Below, the lock is held.

    def _enqueue(self, job: Job) -> None:
        job.arrival = next(self._arrivals)
        self._waiting_tokens += job.waiting_tokens
        for attention_length, group in job.groups.items():
            bucket = self._buckets.setdefault((job.model_id, attention_length), OrderedDict())
            bucket[job] = group
        self._work.notify(min(self._idle_workers, job.unfinished))

    def _next_batch(self) -> MicroBatch | None:
        # Jobs past their deadline fall out while a batch is filled, so a bucket may turn out to hold no work.
        while self._buckets:
            batch = self._fill(self._oldest_bucket())
            if batch.entries:
                return batch
        return None

    def _oldest_bucket(self) -> _BucketKey:
        def age(key: _BucketKey) -> tuple[int, int]:
            job, group = next(iter(self._buckets[key].items()))
            return job.arrival, group[0].row

        return min(self._buckets, key=age)

    def _fill(self, key: _BucketKey) -> MicroBatch:
        model_id, attention_length = key
        bucket = self._buckets[key]
        now = time.monotonic()
        budget = self._fair_share()
        entries: list[tuple[Job, Waiting]] = []
        token_count = 0
        while bucket:
            job, group = next(iter(bucket.items()))
            if job.deadline is not None and job.deadline <= now:
                self._fail(job, problems.deadline_exceeded())
                continue
            started = 0
            while group and (not entries or token_count + started + len(group[0].ids) <= budget):
                waiting = group.popleft()
                entries.append((job, waiting))
                started += len(waiting.ids)
            token_count += started
            if started:
                job.last_start_time = now
                self._leave(job, started)
            if group:
                break  # the budget is used up
            self._drop(job, attention_length)
        return MicroBatch(next(self._batch_numbers), model_id, entries, token_count, now)

    def _fair_share(self) -> int:
        """The token budget; less if idle workers can take a useful part of what waits."""
        share = -(-self._waiting_tokens // (self._idle_workers + 1))
        return min(self._micro_batch_token_count, max(_MIN_SHARE_TOKENS, share))

    def _fail(self, job: Job, problem: Problem) -> None:
        if not job.settled:
            job.problem = problem
            self._withdraw(job)
            self._settle(job)

    def _settle(self, job: Job) -> None:
        if not job.settled:
            job.settled = True
            job.on_done()

    def _withdraw(self, job: Job) -> None:
        """Takes what waits of a job, queued or parked, out of the scheduler."""
        admission = self._admissions[job.model_id]
        if admission.unpark(job):
            self._admit_parked(admission)
            return
        for attention_length in list(job.groups):
            self._drop(job, attention_length)
        self._leave(job, job.waiting_tokens)

    def _drop(self, job: Job, attention_length: int) -> None:
        key = job.model_id, attention_length
        bucket = self._buckets[key]
        del bucket[job], job.groups[attention_length]
        if not bucket:
            del self._buckets[key]

    def _leave(self, job: Job, token_count: int) -> None:
        job.waiting_tokens -= token_count
        self._waiting_tokens -= token_count
        admission = self._admissions[job.model_id]
        admission.leave(job, token_count)
        self._admit_parked(admission)

    def _admit_parked(self, admission: Admission) -> None:
        while (job := admission.next_parked()) is not None:
            self._enqueue(job)

    def _queue_full(self, model_id: str, token_count: int) -> Problem:
        admission = self._admissions[model_id]
        # Until there is room and, so that clients do not come back at once to be refused again, half is worked off.
        tokens = max(admission.excess_tokens(token_count), admission.waiting_tokens // 2)
        retry_after_s = self._rates[model_id].wait_s(tokens, self._worker_count)
        return problems.queue_full(model_id, admission.waiting_tokens, admission.bound_tokens, retry_after_s)
