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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import NamedTuple, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from whit.server.engine import problems, reading
from whit.server.engine.completions import Completions
from whit.server.engine.jobs import ALL_LAYERS, Depth, Job
from whit.server.engine.lone import Loan
from whit.server.engine.memory import MemoryGovernor
from whit.server.engine.models import LoadedModel
from whit.server.engine.scheduler import Scheduler
from whit.server.engine.statistics import Statistics
from whit.server.engine.types import Embedded, EmbedSpec, Flow, Lane, Timing
from whit.server.engine.workers import Workers, run_model
from whit.server.errors import ServiceError
from whit.server.inflight import InFlight

T = TypeVar("T")

# Vectors, seconds that their work waited to begin, and seconds that models ran for it.
_Found = tuple[NDArray[np.float32], float, float]

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
        self._completions = Completions(self._loop)
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
                here = self._run_here(call, batch)
                found = here if here is not None else await self._in_time(call, self._run(call, batch))
            else:
                batch, found = await self._in_time(call, self._read_and_run(call, read, items))
            vectors, queue_s, infer_s = found
            if reading.needs_shaping(call.model, call.spec):
                vectors = await self._shape(vectors, call.spec)
            return Embedded(vectors, batch.items, Timing(_us(queue_s), _us(batch.seconds), _us(infer_s)))

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

    async def _read_and_run(
        self, call: _Call, read: Callable[..., reading.Reading], items: Sequence[Sequence[object]]
    ) -> tuple[reading.Reading, _Found]:
        refusal = await self.memory.refusal(wait=call.wait)
        if refusal is not None:
            raise ServiceError(refusal)
        batch = read() if _is_short(items) else await self._read(read)
        return batch, await self._run(call, batch)

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

    def _run_here(self, call: _Call, batch: reading.Reading) -> _Found | None:
        """Runs what was read in the calling thread, which is the loop's; None if a worker would be sooner."""
        if not batch.groups:
            return _no_vectors(call, batch), 0.0, 0.0
        model, depth = call.model, _depth(call)
        loan = self._scheduler.lend(model.id, call.lane, depth, batch.size, is_instant=model.is_instant)
        if loan is None:
            return None
        failed = True
        try:
            vectors = _run_groups(call, batch, depth, loan.core_count)
            failed = False
        except Exception:
            _logger.exception("model %s failed on micro-batch %d", model.id, loan.number)
            raise ServiceError(problems.micro_batch_failed(loan)) from None
        finally:
            end_time = time.monotonic()
            # In the next turn of the loop, when the answer is on its way.
            self._loop.call_soon(self._note, loan, end_time, failed)
        return vectors, 0.0, end_time - loan.start_time

    def _note(self, loan: Loan, end_time: float, failed: bool) -> None:
        self._scheduler.give_back(loan, end_time, failed=failed)
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("micro-batch", extra={"fields": loan.fields(end_time)})

    async def _run(self, call: _Call, batch: reading.Reading) -> _Found:
        """Has the workers run what was read."""
        job = Job(
            model_id=call.model.id,
            depth=_depth(call),
            groups=batch.groups,
            vectors=_no_vectors(call, batch),
            lane=call.lane,
            deadline=call.deadline,
            patient=call.wait,
            flow=call.flow,
        )
        if batch.groups:
            await self._finish(job)
        return job.vectors, job.last_start_time - job.submit_time, job.infer_s

    async def _finish(self, job: Job) -> None:
        """Has the workers fill in the job's vectors."""
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


def _no_vectors(call: _Call, batch: reading.Reading) -> NDArray[np.float32]:
    """Room for the vectors of a batch, all zeros."""
    return np.zeros((len(batch.items), call.model.manifest.dimension_count), np.float32)


def _run_groups(call: _Call, batch: reading.Reading, depth: Depth, core_count: int) -> NDArray[np.float32]:
    """The vectors of a batch, by the calling thread."""
    groups, size = batch.groups, batch.size
    if size.run_count == 1 and size.sequence_count == len(batch.items):  # as they are, with nothing to put in its place
        (group,) = groups.values()
        return run_model(call.model, [ids for _, ids in group], depth.layer_count, core_count)
    vectors = _no_vectors(call, batch)
    for group in groups.values():
        found = run_model(call.model, [ids for _, ids in group], depth.layer_count, core_count)
        vectors[[row for row, _ in group]] = found
    return vectors


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
