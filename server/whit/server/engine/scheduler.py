"""Which work runs next. One scheduler serves all models of the process; worker threads pull micro-batches from it.

``fairness`` says which job leads the next micro-batch. It takes that job's first waiting sequence and fills up, across
jobs in the order of their turns and the leader's lane first, with sequences of the same model, the same depth and the
same attention length, until the token budget is reached. Where that leaves room for all that waits, other attention
lengths come along if padding them costs less than a run of their own, and if the model's vectors do not depend on it
(ADR 9). Work never waits for company, and idle workers block: there is no polling, spinning or batching delay.

Thread-safe. Knows no asyncio: a job says through ``on_done`` that it is settled.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterable

from whit.contract.errors import Problem
from whit.server.engine import problems
from whit.server.engine.admission import Admission
from whit.server.engine.arrivals import Arrivals
from whit.server.engine.buckets import Buckets
from whit.server.engine.budget import token_budget
from whit.server.engine.costs import CostModel
from whit.server.engine.fairness import Line, Turns
from whit.server.engine.forecast import ADMISSION_MARGIN, READING_MARGIN, Forecast
from whit.server.engine.jobs import ALL_LAYERS, Depth, Draft, Job, MicroBatch
from whit.server.engine.lone import Loan, Size, pays_to_share, runs_quickly
from whit.server.engine.statistics import Statistics
from whit.server.engine.types import Lane


class Scheduler:
    """The waiting work of all models, and which of it runs next."""

    def __init__(
        self,
        model_ids: Iterable[str],
        *,
        worker_count: int,
        queue_token_count: int,
        micro_batch_token_count: int,
        mixes: Callable[[str, int], bool] = lambda _model_id, _attention_length: False,
        most_cores: Callable[[str], int] = lambda _model_id: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a scheduler.

        ``mixes`` tells of which attention lengths sequences of a model may be run beside others, ``most_cores`` how many
        cores can compute one micro-batch of it together.
        """
        self._worker_count = worker_count
        self._most_cores = {model_id: most_cores(model_id) for model_id in model_ids}
        self._clock = clock
        self._admissions = {model_id: Admission(queue_token_count) for model_id in self._most_cores}
        self._costs = {model_id: CostModel() for model_id in self._admissions}
        self._turns = Turns(quantum=micro_batch_token_count)
        self._buckets = Buckets(mixes)
        self._queued: dict[Job, None] = {}  # with waiting work, parked ones not counted
        self._statistics = Statistics()
        self._forecast = Forecast(
            self._admissions,
            self._costs,
            self._turns,
            self._statistics,
            worker_count=worker_count,
            micro_batch_token_count=micro_batch_token_count,
        )
        self._seen = Arrivals()
        self._runs = 0  # going on now
        self._idle_workers = 0
        self._bulk_runs = 0  # of these, with bulk
        self._arrivals = itertools.count()
        self._batch_numbers = itertools.count(1)
        self._stopped = False
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._express_work = threading.Condition(self._lock)

    # What the calls use. None of it blocks for longer than the lock is held, which is microseconds.

    def submit(self, job: Job) -> Problem | None:
        """Queues a job, or parks it if it is patient and there is no room; otherwise returns why it is refused."""
        with self._lock:
            if self._stopped:
                return problems.shutting_down()
            job.submit_time = self._clock()
            self._seen.come(job.submit_time, meets=self._is_busy)
            admission = self._admissions[job.model_id]
            if not job.patient and not admission.has_room(job.waiting_tokens):
                self._statistics.refused_job_count += 1
                return self._forecast.queue_full(job.model_id, job.waiting_tokens)
            ahead = self._forecast.tokens_ahead(job.model_id, job.lane, job.waiting_tokens)
            hopeless = self._hopeless(job, job.submit_time, ahead, ADMISSION_MARGIN)
            if hopeless is not None:
                self._statistics.deadline_token_count += job.waiting_tokens
                return hopeless
            if admission.enter(job):
                self._enqueue(job)
            else:
                admission.park(job)
            return None

    def lend(self, model_id: str, lane: Lane, depth: Depth, size: Size, *, is_instant: bool = False) -> Loan | None:
        """Leave for a caller to run its work at once, in its own thread; None where workers are sooner.

        It has it where its work is done in an instant. Otherwise the work must be short, all workers wait for some, and calls
        come singly. The caller gives the loan back when the work has run.
        """
        with self._lock:
            now = self._clock()
            self._seen.come(now, meets=self._is_busy)
            is_lone = size.sequence_count == 1
            cores = self._cores(model_id, depth, size.token_count, self._worker_count, now) if is_lone else 1
            fits = is_lone or size.token_count <= self._forecast.micro_batch_token_count
            if self._stopped or not fits or not (is_instant or self._is_quick(model_id, depth, size, cores, now)):
                return None
            self._runs += 1
            return Loan(next(self._batch_numbers), model_id, lane, depth, size, cores, now)

    def give_back(self, loan: Loan, end_time: float, *, failed: bool = False) -> None:
        """Notes that lent work has run, until ``end_time``."""
        with self._lock:
            self._statistics.lanes[loan.lane].token_count += loan.size.token_count
            self._statistics.lanes[loan.lane].job_count += 1
            self._note_run(loan, end_time, learns=not failed and loan.size.run_count == 1)

    def refusal(
        self, model_id: str, lane: Lane, deadline: float | None, token_count: int, depth: Depth = ALL_LAYERS
    ) -> Problem | None:
        """Why a job of about so many tokens would be refused now, or None: so that no work is spent on reading it."""
        with self._lock:
            if not self._admissions[model_id].has_room(1):
                self._statistics.refused_job_count += 1
                return self._forecast.queue_full(model_id, 1)
            if deadline is None or not self._queued:
                return None
            work = self._forecast.tokens_ahead(model_id, lane, token_count), token_count, 0
            hopeless = self._forecast.late(model_id, lane, depth, deadline - self._clock(), *work, READING_MARGIN)
            if hopeless is not None:
                self._statistics.deadline_token_count += token_count
            return hopeless

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait, of any model; if none does, none is refused."""
        return bool(self._queued)

    def set_budget(self, token_count: int) -> None:
        """From now on a micro-batch has so many tokens at most; a longer sequence runs alone."""
        with self._lock:
            self._forecast.micro_batch_token_count = token_count

    def discard(self, job: Job) -> None:
        """Forgets a job whose caller has gone: what no worker has started never runs. Does nothing to a settled job."""
        with self._lock:
            if not job.settled:
                job.settled = True
                if job.deadline is not None and job.deadline <= self._clock():
                    self._statistics.deadline_token_count += job.waiting_tokens
                else:
                    self._statistics.cancelled_token_count += job.waiting_tokens
                self._withdraw(job)

    def waiting_tokens(self, model_id: str) -> int:
        """Tokens admitted for a model that no worker has started."""
        with self._lock:
            return self._admissions[model_id].waiting_tokens

    def statistics(self) -> Statistics:
        """A copy of the counts, as they are now."""
        with self._lock:
            found = copy.deepcopy(self._statistics)
            found.costs = {model_id: costs for model_id, model in self._costs.items() if (costs := model.costs)}
            return found

    @property
    def idle_worker_count(self) -> int:
        """Workers that wait for work."""
        return self._idle_workers

    def stop(self) -> None:
        """Settles every waiting job with SHUTTING_DOWN and lets the workers go as they finish what they run."""
        with self._lock:
            self._stopped = True
            while self._queued:  # a job that leaves may let a parked one in
                self._fail(next(iter(self._queued)), problems.shutting_down())
            self._work.notify_all()
            self._express_work.notify_all()

    # What the workers use.

    def take(self) -> MicroBatch | None:
        """The next micro-batch; blocks while there is none. None when the scheduler is stopped."""
        with self._lock:
            while not self._stopped:
                batch = self._next_batch()
                if batch is not None:
                    self._runs += 1
                    self._bulk_runs += batch.lane is Lane.BULK
                    self._call_express()
                    return batch
                self._idle_workers += 1
                self._work.wait()
                self._idle_workers -= 1
            return None

    def take_express(self) -> MicroBatch | None:
        """As ``take``, for the worker that runs interactive work while all others are busy, some of them with bulk."""
        with self._lock:
            while not self._stopped:
                batch = self._next_batch(Lane.INTERACTIVE) if self._needs_express() else None
                if batch is not None:
                    self._runs += 1
                    return batch
                self._express_work.wait()
            return None

    def finish(self, batch: MicroBatch, problem: Problem | None = None) -> None:
        """Notes that a micro-batch ran: its vectors are written, or ``problem`` fails every job that was in it."""
        with self._lock:
            now = self._clock()
            seconds = now - batch.start_time
            self._note_run(batch, now, learns=problem is None)
            self._bulk_runs -= batch.lane is Lane.BULK
            for job in {job: None for job, _ in batch.entries}:
                job.infer_s += seconds
            done = []
            for job, _ in batch.entries:
                job.unfinished -= 1
                if problem is not None:
                    self._fail(job, problem)
                elif job.unfinished == 0 and not job.settled:
                    job.settled = True
                    done.append(job)
        for job in done:  # not under the lock: who is told comes back with more
            job.on_done()

    # Below, the lock is held. First: which work makes up the next micro-batch.

    def _next_batch(self, lane: Lane | None = None) -> MicroBatch | None:
        # Jobs that cannot meet their deadline fall out while a batch is filled, so that it may turn out empty.
        while (leader := self._turns.leader(lane)) is not None:
            batch = self._fill(leader)
            if batch.entries:
                return batch
        return None

    def _fill(self, leader: Job) -> MicroBatch:
        model_id, depth, lane = leader.model_id, leader.depth, leader.lane
        attention_length = min(leader.groups, key=lambda length: leader.groups[length][0].row)
        now = self._clock()
        draft = Draft(self._budget(leader, attention_length, now), attention_length)
        if not self._shed(leader, now):
            self._start(leader, attention_length, draft, now)
        # Bulk takes interactive work along. The other way round that would wait for more than itself, to save a run.
        for each in (lane,) if lane is Lane.INTERACTIVE else (lane, Lane.INTERACTIVE):
            self._start_line(self._buckets.line(model_id, depth, attention_length, each), attention_length, draft, now)
        for other, line in self._buckets.company(model_id, depth, attention_length, lane) if draft.entries else ():
            has_room_for_all = self._statistics.lanes[lane].waiting_token_count <= draft.room_tokens
            if has_room_for_all and self._pays(draft, model_id, line, other):
                self._start_line(line, other, draft, now)
                draft.grid_length = max(draft.grid_length, other)
        is_lone = len(draft.entries) == 1 and not self._queued
        cores = self._cores(model_id, depth, draft.token_count, 1 + self._idle_workers, now) if is_lone else 1
        content = draft.grid_length, draft.entries, draft.token_count
        return MicroBatch(next(self._batch_numbers), model_id, lane, *content, now, depth, cores)

    def _cores(self, model_id: str, depth: Depth, token_count: int, free: int, now: float) -> int:
        """On how many of the free cores a sequence that is alone is to run."""
        pays = self._seen.singly(now) and pays_to_share(token_count, depth, self._costs[model_id].costs)
        return min(free, self._most_cores[model_id]) if pays else 1

    def _is_quick(self, model_id: str, depth: Depth, size: Size, core_count: int, now: float) -> bool:
        alone = self._idle_workers == self._worker_count and not self._queued
        return alone and self._seen.pauses(now) and runs_quickly(size, depth, core_count, self._costs[model_id].costs)

    def _note_run(self, run: MicroBatch | Loan, end_time: float, *, learns: bool) -> None:
        seconds = end_time - run.start_time
        self._seen.end(end_time)
        self._runs -= 1
        self._statistics.add_run(run.token_count, seconds)
        if learns and run.core_count == 1:  # costs are those of one core
            self._costs[run.model_id].add(run.token_count, run.cell_count, seconds, run.depth.share)

    @property
    def _is_busy(self) -> bool:
        return bool(self._queued) or self._runs > 0

    def _pays(self, draft: Draft, model_id: str, line: Line, other: int) -> bool:
        """Whether a line's sequences of another length cost less in this micro-batch than in a run of their own."""
        costs = self._costs[model_id].costs
        more = sum(len(job.groups[other]) for job in line.jobs())
        return costs is not None and costs.shared_pays((len(draft.entries), draft.grid_length), (more, other))

    def _start_line(self, line: Line, attention_length: int, draft: Draft, now: float) -> None:
        """Moves what fits of a line into a micro-batch."""
        while (job := line.first()) is not None:
            if self._shed(job, now):
                continue
            self._start(job, attention_length, draft, now)
            if attention_length in job.groups:
                break  # the budget is used up

    def _start(self, job: Job, attention_length: int, draft: Draft, now: float) -> None:
        count, tokens = draft.take(job, attention_length)
        if count:
            job.last_start_time = now
            job.waiting_cells -= attention_length**2 * count
            self._statistics.lanes[job.lane].token_count += tokens
            self._turns.charge(job, tokens)
            if not job.groups[attention_length]:
                self._drop(job, attention_length)
            self._leave(job, tokens)

    def _budget(self, leader: Job, attention_length: int, now: float) -> int:
        """Tokens that a micro-batch may have."""
        waiting = sum(numbers.waiting_token_count for numbers in self._statistics.lanes.values())
        return token_budget(
            leader,
            attention_length,
            self._costs[leader.model_id].costs,
            most=self._forecast.micro_batch_token_count,
            share=-(-waiting // self._worker_count),
            expects_interactive=self._seen.expects_interactive(now),
            now=now,
        )

    def _shed(self, job: Job, now: float) -> bool:
        """Drops a job whose deadline has passed or cannot be met, even if it ran from now on; one not begun also if it is unlikely."""
        if job.deadline is None:
            return False
        margin = 1.0 if job.begun else ADMISSION_MARGIN
        problem = problems.deadline_exceeded() if job.deadline <= now else self._hopeless(job, now, 0, margin)
        if problem is not None:
            self._statistics.deadline_token_count += job.waiting_tokens
            self._fail(job, problem)
        return problem is not None

    def _hopeless(self, job: Job, now: float, tokens_ahead: int, margin: float = 1.0) -> Problem | None:
        """Why starting a job is useless: it would be late. None if it may be in time, who knows, or nothing else waits."""
        if job.deadline is None or not any(other is not job for other in self._queued):
            return None
        return self._forecast.late_job(job, job.deadline - now, tokens_ahead, margin)

    # How jobs come and go.

    def _enqueue(self, job: Job) -> None:
        job.arrival = next(self._arrivals)
        self._queued[job] = None
        lane = self._statistics.lanes[job.lane]
        lane.waiting_token_count += job.waiting_tokens
        lane.waiting_job_count += 1
        self._seen.queued(self._clock(), job.lane)
        self._turns.add(job)
        self._buckets.add(job)
        self._work.notify(min(self._idle_workers, job.unfinished))
        self._call_express()

    def _call_express(self) -> None:
        if self._needs_express():
            self._express_work.notify()

    def _needs_express(self) -> bool:
        waiting = self._statistics.lanes[Lane.INTERACTIVE].waiting_job_count
        return waiting > 0 and self._bulk_runs > 0 and self._idle_workers == 0

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
        del job.groups[attention_length]
        self._buckets.remove(job, attention_length)

    def _leave(self, job: Job, token_count: int) -> None:
        """So many tokens of a job no longer wait, and if they were the last, nor does the job."""
        job.waiting_tokens -= token_count
        self._turns.leave(job, token_count)
        lane = self._statistics.lanes[job.lane]
        lane.waiting_token_count -= token_count
        if job in self._queued and not job.groups:
            del self._queued[job]
            self._turns.remove(job)
            lane.waiting_job_count -= 1
            if job.problem is None and not job.settled:
                lane.job_count += 1
                lane.wait_s += job.last_start_time - job.submit_time
        admission = self._admissions[job.model_id]
        admission.leave(job, token_count)
        self._admit_parked(admission)

    def _admit_parked(self, admission: Admission) -> None:
        while (job := admission.next_parked()) is not None:
            self._enqueue(job)
