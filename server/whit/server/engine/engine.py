"""The engine: from texts or token ids to vectors, for any number of calls at once, on a fixed set of threads.

A call is read (checked and tokenised) in an owned thread pool, handed to the scheduler as one job, run by the workers,
and shaped. The event loop only passes things on; what takes less time than the trip to a thread and back it does itself.
Knows no protobuf and no onnxruntime.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import NamedTuple, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from whit.contract.errors import Problem
from whit.server.engine import problems, reading
from whit.server.engine.jobs import ALL_LAYERS, Depth, Job
from whit.server.engine.memory import MemoryGovernor
from whit.server.engine.models import LoadedModel
from whit.server.engine.scheduler import Scheduler
from whit.server.engine.statistics import Statistics
from whit.server.engine.types import Embedded, EmbedSpec, Flow, Lane, Timing
from whit.server.engine.workers import Workers
from whit.server.errors import ServiceError
from whit.server.inflight import InFlight

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Less time than the trip to a thread and back takes shaping up to so many values, and reading so few characters or ids.
_SHAPE_ON_LOOP_VALUES = 16_384
_READ_ON_LOOP_ITEMS = 4
_READ_ON_LOOP_LENGTH = 2048


class WorkerDiedError(Exception):
    """A worker thread ended that should not have: the process must end, loudly. The cause is chained."""


class Engine:
    """Runs the loaded models. Use it as an async context manager, on one event loop, once.

    Attributes:
        models: the loaded models by id.
        memory: watches how much there is, from the start to the end of the block.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        *,
        worker_count: int,
        queue_token_count: int,
        micro_batch_token_count: int,
        text_byte_count: int,
        memory: MemoryGovernor | None = None,
    ) -> None:
        """Makes an engine that is not started.

        Args:
            models: the loaded models by id.
            worker_count: threads that run models; as many read texts.
            queue_token_count: tokens that may wait for one model; a job larger than that is let in when nothing waits.
            micro_batch_token_count: tokens in one run of a model; a longer sequence runs alone.
            text_byte_count: longest text, in bytes of UTF-8.
            memory: None for that of this process.

        Raises:
            ValueError: a number is not positive.
        """
        for name, value in (
            ("worker_count", worker_count),
            ("queue_token_count", queue_token_count),
            ("micro_batch_token_count", micro_batch_token_count),
            ("text_byte_count", text_byte_count),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.models = models
        self.memory = memory or MemoryGovernor()
        self._micro_batch_token_count = micro_batch_token_count
        self._text_byte_count = text_byte_count
        self._scheduler = Scheduler(
            models,
            worker_count=worker_count,
            queue_token_count=queue_token_count,
            micro_batch_token_count=micro_batch_token_count,
            mixes=lambda model_id, attention_length: models[model_id].mixes(attention_length),
            most_cores=lambda model_id: models[model_id].encoder.most_cores,
        )
        self._workers = Workers(models, self._scheduler, count=worker_count, on_death=self._report_death)
        self._readers = ThreadPoolExecutor(worker_count, thread_name_prefix="whit-reader")
        self._calls = InFlight()
        self._draining = False
        self._is_stopping = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._death: asyncio.Future[BaseException] = self._loop.create_future()
        self._completions = _Completions(self._loop)
        self._workers.start()
        self._watch_memory = self.memory.watching(
            lambda _: self._scheduler.set_budget(self.memory.budget(self._micro_batch_token_count))
        )
        await self._watch_memory.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuses new calls, fails what waits with SHUTTING_DOWN, lets running micro-batches end and joins the workers.

        A reader whose call was cancelled is not waited for; it ends after the part that it reads.
        """
        self._draining = self._is_stopping = True
        await self._watch_memory.__aexit__(None, None, None)
        self._scheduler.stop()
        await asyncio.to_thread(self._workers.join)
        await self._calls.none()  # every job is settled, so the calls end at once; they may still need a reader
        self._readers.shutdown(wait=False, cancel_futures=True)
        _logger.info("the engine has stopped", extra={"fields": self.statistics().fields()})

    def __repr__(self) -> str:
        waiting = sum(self._scheduler.waiting_tokens(model_id) for model_id in self.models)
        state = "draining" if self._draining else "open"
        return f"<Engine {state}: {len(self.models)} models, {self._calls.count} calls, {waiting} tokens waiting>"

    def model(self, model_id: str) -> LoadedModel:
        """The loaded model of that id.

        Raises:
            ServiceError: MODEL_NOT_FOUND; the message lists the loaded ones.
        """
        if model_id not in self.models:
            raise ServiceError(problems.model_not_found(model_id, self.models))
        return self.models[model_id]

    async def embed_texts(
        self,
        model_id: str,
        texts: Sequence[str],
        spec: EmbedSpec,
        *,
        lane: Lane,
        deadline: float | None,
        wait: bool,
        flow: Flow | None = None,
        field: str = "texts",
    ) -> Embedded:
        """Embeds texts. A bad one gets a problem of its own, with ``field[i]`` as its path; the others are embedded.

        Cancelling the call, or passing its deadline, drops what no worker has started; a micro-batch that runs is
        finished and its result dropped.

        Args:
            model_id: which model.
            texts: each 1 to text_byte_count bytes of UTF-8.
            spec: the options.
            lane: what kind of work this is.
            deadline: ``time.monotonic()`` seconds; None for none.
            wait: await room in a full queue, instead of being refused.
            flow: whose work this is, to be fair between flows; None makes the call one of its own.
            field: path of the texts in the request, for messages.

        Raises:
            ServiceError: MODEL_NOT_FOUND, INVALID_REQUEST (an option), QUEUE_FULL (only without ``wait``),
                DEADLINE_EXCEEDED (it has passed, or could not be met), SHUTTING_DOWN, or INTERNAL where the model broke.
        """
        call = _Call(self.model(model_id), spec, lane, deadline, wait, flow or Flow())
        read = partial(reading.read_texts, call.model, texts, spec, text_byte_count=self._text_byte_count, field=field)
        return await self._embed(call, read, texts)

    async def embed_token_ids(
        self,
        model_id: str,
        sequences: Sequence[Sequence[int]],
        spec: EmbedSpec,
        *,
        lane: Lane,
        deadline: float | None,
        wait: bool,
        flow: Flow | None = None,
        field: str = "token_ids",
    ) -> Embedded:
        """As ``embed_texts``, for texts that are token ids already, special tokens included."""
        call = _Call(self.model(model_id), spec, lane, deadline, wait, flow or Flow())
        if spec.prompt:
            description = (
                "a role or instruction cannot be put before token ids; tokenise it with the text, or send texts"
            )
            raise ServiceError(problems.bad_option("prompt", description))
        read = partial(reading.read_token_ids, call.model, sequences, spec, field=field)
        return await self._embed(call, read, sequences)

    def statistics(self) -> Statistics:
        """What has been done, saved and refused so far, what waits in each lane, and what a micro-batch costs here."""
        return self._scheduler.statistics()

    async def drain(self) -> None:
        """Refuses new calls from now on, and waits until every call in progress has its answer."""
        self._draining = True
        await self._calls.none()

    async def watch(self) -> NoReturn:
        """Waits until a worker thread dies; run it beside the server, so that the process then ends.

        Raises:
            WorkerDiedError: a worker died. Work that was waiting has been failed and no more is taken.
        """
        error = await asyncio.shield(self._death)
        raise WorkerDiedError("a worker thread died; stop this process and see its log") from error

    async def _embed(
        self, call: _Call, read: Callable[..., reading.Reading], items: Sequence[Sequence[object]]
    ) -> Embedded:
        if self._draining:
            raise ServiceError(problems.shutting_down())
        with self._calls:
            self._check(call, items)
            if call.lane is Lane.INTERACTIVE and _is_short(items):
                batch = read()
                job = _job(call, batch)
                if not self._finished_here(call, job):
                    await self._in_time(call, self._finish(job))
            else:
                batch, job = await self._in_time(call, self._read_and_finish(call, read, items))
            vectors = job.vectors
            if reading.needs_shaping(call.model, call.spec):
                vectors = await self._shape(vectors, call.spec)
            queue_s = job.last_start_time - job.submit_time
            return Embedded(vectors, batch.items, Timing(_us(queue_s), _us(batch.seconds), _us(job.infer_s)))

    def _check(self, call: _Call, items: Sequence[Sequence[object]]) -> None:
        """Refuses a call whose options are bad, or one that cannot wait and would not be served, before it is read."""
        refusal = reading.check_spec(call.model, call.spec)
        if refusal is None and not call.wait and self._scheduler.has_waiting:
            likely = reading.likely_token_count(items, call.model.manifest.max_token_count)
            refusal = self._scheduler.refusal(call.model.id, call.lane, call.deadline, likely, _depth(call))
        if refusal is not None:
            raise ServiceError(refusal)

    async def _in_time(self, call: _Call, work: Coroutine[object, object, T]) -> T:
        """Cancels the work when the call's deadline passes."""
        if call.deadline is None:
            return await work
        try:
            async with asyncio.timeout(call.deadline - time.monotonic()) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise ServiceError(problems.deadline_exceeded()) from None

    async def _read_and_finish(
        self, call: _Call, read: Callable[..., reading.Reading], items: Sequence[Sequence[object]]
    ) -> tuple[reading.Reading, Job]:
        refusal = await self.memory.refusal(wait=call.wait)
        if refusal is not None:
            raise ServiceError(refusal)
        batch = read() if _is_short(items) else await self._read(read)
        job = _job(call, batch)
        await self._finish(job)
        return batch, job

    async def _read(self, read: Callable[..., reading.Reading]) -> reading.Reading:
        """Reads in a reader thread, which gives up once the call has ended or the engine stops."""
        is_over = threading.Event()

        def check() -> None:
            if self._is_stopping or is_over.is_set():
                raise ServiceError(problems.shutting_down())  # a call that has ended hears nothing of it

        try:
            return await self._loop.run_in_executor(self._readers, partial(read, check=check))
        finally:
            is_over.set()

    def _finished_here(self, call: _Call, job: Job) -> bool:
        """Runs a job in the calling thread, which is the loop's, if no worker would be sooner; whether it did."""
        if not (call.model.is_instant or self._scheduler.is_quick(job)):
            return False
        batches = self._scheduler.start(job)
        if isinstance(batches, Problem):
            raise ServiceError(batches)
        for batch in batches:
            problem = self._workers.run(batch)
            end_time = time.monotonic()
            job.infer_s += end_time - batch.start_time
            # In the next turn of the loop, when the answer is on its way.
            self._loop.call_soon(partial(self._scheduler.note, batch, end_time, failed=problem is not None))
            if problem is not None:
                raise ServiceError(problem)
        return True

    async def _finish(self, job: Job) -> None:
        """Has the workers fill in the job's vectors."""
        if not job.unfinished:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        job.on_done = partial(self._completions.add, done)
        refusal = self._scheduler.submit(job)
        if refusal is not None:
            raise ServiceError(refusal)
        try:
            await done
        finally:
            self._scheduler.discard(job)  # does nothing unless the wait was cut short
        if job.problem is not None:
            raise ServiceError(job.problem)

    async def _shape(self, vectors: NDArray[np.float32], spec: EmbedSpec) -> NDArray[np.float32]:
        if vectors.size <= _SHAPE_ON_LOOP_VALUES:
            return reading.shape(vectors, spec)
        return await self._loop.run_in_executor(self._readers, reading.shape, vectors, spec)

    def _report_death(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(_resolve_with, self._death, error)


class _Call(NamedTuple):
    model: LoadedModel
    spec: EmbedSpec
    lane: Lane
    deadline: float | None
    wait: bool
    flow: Flow


class _Completions:
    """Futures to resolve on the loop: a micro-batch completes many calls, and waking the loop is a system call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_woken = False

    def add(self, done: asyncio.Future[None]) -> None:
        """From any thread; those added before the loop comes round are resolved in one turn of it."""
        self._waiting.append(done)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._is_woken = False  # first: what is added from here on wakes the loop again
        while self._waiting:
            done = self._waiting.popleft()
            if not done.done():  # cancelled
                done.set_result(None)


def _job(call: _Call, batch: reading.Reading) -> Job:
    """What the scheduler is to do for a call that was read."""
    return Job(
        model_id=call.model.id,
        depth=_depth(call),
        groups=batch.groups,
        vectors=np.zeros((len(batch.items), call.model.manifest.dimension_count), np.float32),
        lane=call.lane,
        deadline=call.deadline,
        patient=call.wait,
        flow=call.flow,
    )


def _depth(call: _Call) -> Depth:
    """With how many layers a call is run; naming all of them is the same as leaving it out."""
    depths, asked = call.model.manifest.layer_counts, call.spec.layer_count
    return ALL_LAYERS if asked == 0 or asked == depths[-1] else Depth(asked, asked / depths[-1])


def _is_short(items: Sequence[Sequence[object]]) -> bool:
    return len(items) <= _READ_ON_LOOP_ITEMS and sum(map(len, items)) <= _READ_ON_LOOP_LENGTH


def _resolve_with(death: asyncio.Future[BaseException], error: BaseException) -> None:
    if not death.done():  # only the first death is reported; every one is logged
        death.set_result(error)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
