"""The one grammar of the streams: the config first, then batches; one response a batch, in order.

Up to ``window`` batches are worked on at a time, and the stream is read no further until the first of them is answered.
A bad batch gets a response with a status and the stream goes on; a bad or missing config ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from whit.contract.errors import FieldViolation, Problem
from whit.server.errors import ServiceError, defect, refusal
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
        ServiceError: the config is bad or missing, or the server is draining.
    """
    config = await configure(_config_of(await stream.read()))
    try:
        async with asyncio.TaskGroup() as tasks:
            await _Batches(stream, window, config, answer, refuse, tasks).run()
    except BaseExceptionGroup as group:
        raise _first(group) from None


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
        self._answers: asyncio.Queue[asyncio.Task[Message] | ServiceError | None] = asyncio.Queue()

    async def run(self) -> None:
        self._tasks.create_task(self._read())
        while (entry := await self._answers.get()) is not None:
            if isinstance(entry, ServiceError):
                raise entry
            response = await entry
            try:
                await self._stream.write(response)
            except ServiceError as error:  # too large
                await self._stream.write(self._refuse(error.problem))
            self._places.release()

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
                # Not in the task itself: one that is cancelled before it begins runs no ``finally``.
                task.add_done_callback(partial(self._release, received.byte_count))
                self._answers.put_nowait(task)
                before = task
        except ServiceError as error:
            self._answers.put_nowait(error)
        else:
            self._answers.put_nowait(None)

    def _release(self, byte_count: int, _: asyncio.Task[Message]) -> None:
        self._stream.budget.release(byte_count)

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
    if received is None or received.required().WhichOneof("request") != "config":
        description = "is missing; the first message of a stream must be its config"
        raise refusal([FieldViolation("config", description)])
    return received.message.config


def _batch_of(received: Received) -> Any:
    match received.required().WhichOneof("request"):
        case "batch":
            return received.message.batch
        case "config":
            description = "is allowed in the first message only; open another stream for other options"
            raise refusal([FieldViolation("config", description)])
        case _:
            raise refusal([FieldViolation("batch", "is missing; every message after the first must have one")])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
