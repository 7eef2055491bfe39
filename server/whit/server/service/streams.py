"""The one grammar of the streams: the config first, then batches; one response a batch, in order.

Up to ``window`` batches are worked on at a time, and the stream is read no further until the first of them is answered. The
bytes of a request, and then of its answer until the client takes it, are held in the server's budget.
A bad batch gets a response with a status and the stream goes on; a bad or missing config ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from traceback import clear_frames
from typing import Any, TypeVar

from google.protobuf.message import Message

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.server.errors import ServiceError, defect, refusal
from whit.server.service.limits import ByteBudget
from whit.server.service.rpc import Received, Stream

Config = TypeVar("Config")

Configure = Callable[[Any], Awaitable[Config]]
"""Checks the config message; a ``ServiceError`` ends the stream."""

Answer = Callable[[Config, Any, "Turn"], Awaitable[Message]]
"""Answers one batch message; a ``ServiceError`` becomes the status of its response."""

Refuse = Callable[[Problem], Message]
"""The response to a batch that failed as a whole."""


class Turn:
    """Where a batch stands in its stream."""

    def __init__(self, before: asyncio.Task[Message] | None) -> None:
        self._before = before

    async def comes(self) -> None:
        """Waits until every earlier batch of the stream is done, well or badly: for work that must keep the order."""
        if self._before is not None:
            await asyncio.wait((self._before,))
            self._before = None


async def answer_stream(
    stream: Stream, *, window: int, configure: Configure[Config], answer: Answer[Config], refuse: Refuse
) -> None:
    """Serves one stream to its end.

    If the client vanishes, everything that was begun for it is cancelled before this returns.

    Raises:
        ServiceError: the config is bad or missing, the client is idle for too long, or the server is draining.
    """
    config = await configure(_config_of(await stream.read()))
    try:
        async with asyncio.TaskGroup() as tasks:
            await _Batches(stream, window, config, answer, refuse, tasks).run()
    except BaseException as error:  # noqa: BLE001  (it is raised again)
        first = _first(error)
        # An exception and the frames that it went through hold each other, and with them answers that nobody has taken,
        # until the next garbage collection, which an idle server does not come to.
        clear_frames(first.__traceback__)
        raise first from None


class _Batch:
    """A batch on its way. Holds the bytes of its request, which are taken already, and when it is answered those of the answer."""

    def __init__(self, task: asyncio.Task[Message], byte_count: int, budget: ByteBudget) -> None:
        self.task = task
        self._budget = budget
        self._byte_count = byte_count
        self._is_over = False
        # Not in the task itself: one that is cancelled before it begins runs no ``finally``.
        task.add_done_callback(self._done)

    def end(self) -> None:
        """The answer is written, or will never be."""
        self._is_over = True
        self._hold(0)

    def _done(self, task: asyncio.Task[Message]) -> None:
        is_answered = not self._is_over and not task.cancelled() and task.exception() is None
        self._hold(task.result().ByteSize() if is_answered else 0)

    def _hold(self, byte_count: int) -> None:
        before, self._byte_count = self._byte_count, byte_count
        if byte_count > before:
            self._budget.add(byte_count - before)
        else:
            self._budget.release(before - byte_count)


class _Batches:
    def __init__(
        self,
        stream: Stream,
        window: int,
        config: Any,
        answer: Answer[Any],
        refuse: Refuse,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._stream = stream
        self._places = asyncio.Semaphore(window)
        self._config = config
        self._answer = answer
        self._refuse = refuse
        self._tasks = tasks
        # In the order of the batches; then None, or why the stream ends.
        self._answers: asyncio.Queue[_Batch | ServiceError | None] = asyncio.Queue()

    async def run(self) -> None:
        self._tasks.create_task(self._read())
        try:
            while (entry := await self._answers.get()) is not None:
                if isinstance(entry, ServiceError):
                    raise entry
                try:
                    await self._write(entry)
                finally:
                    entry.end()
                self._places.release()
        finally:
            self._drop()

    async def _write(self, batch: _Batch) -> None:
        response = await batch.task
        try:
            await self._stream.write(response)
        except ServiceError as error:
            if error.problem.reason is Reason.STREAM_IDLE:
                raise
            await self._stream.write(self._refuse(error.problem))  # it was too large

    def _drop(self) -> None:
        """Forgets the answers that nobody will take."""
        while not self._answers.empty():
            entry = self._answers.get_nowait()
            if isinstance(entry, _Batch):
                entry.end()

    async def _read(self) -> None:
        before: asyncio.Task[Message] | None = None
        try:
            while True:
                await self._places.acquire()
                received = await self._stream.read()
                if received is None:
                    break
                await self._stream.budget.take(received.byte_count)
                task = self._tasks.create_task(self._one(received, Turn(before)))
                self._answers.put_nowait(_Batch(task, received.byte_count, self._stream.budget))
                before = task
        except ServiceError as error:
            self._answers.put_nowait(error)
        else:
            self._answers.put_nowait(None)

    async def _one(self, received: Received, turn: Turn) -> Message:
        try:
            return await self._answer(self._config, _batch_of(received), turn)
        except ServiceError as error:
            response = self._refuse(error.problem)
        except Exception as error:  # noqa: BLE001  (one broken batch must not end the stream; it is logged)
            response = self._refuse(defect(error, "a batch of a stream"))
        # The next batch waits for this one alone, so this one is not done before those that it should have waited for.
        await turn.comes()
        return response


def _config_of(received: Received | None) -> Any:
    if received is None or received.message().WhichOneof("request") != "config":
        description = "is missing; the first message of a stream must be its config"
        raise refusal([FieldViolation("config", description)])
    return received.message().config


def _batch_of(received: Received) -> Any:
    message = received.message()
    match message.WhichOneof("request"):
        case "batch":
            return message.batch
        case "config":
            description = "is allowed in the first message only; open another stream for other options"
            raise refusal([FieldViolation("config", description)])
        case _:
            raise refusal([FieldViolation("batch", "is missing; every message after the first must have one")])


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
