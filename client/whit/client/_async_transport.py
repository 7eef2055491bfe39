"""Carries out plans over an asyncio channel. It decides nothing."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Never, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from whit.client._calls import Session
from whit.client._channel import aio_channel
from whit.client._errors import WhitError
from whit.client._methods import Method
from whit.client._steps import END, HALF_CLOSE, PULL, READY, Emit, Invoke, Open, Plan, Receive, Send, Sleep, StreamPlan

T = TypeVar("T")


class AsyncTransport:
    """A channel and what runs plans on it. The channel is made in the event loop that first uses it, and stays there."""

    def __init__(
        self, session: Session, credentials: grpc.ChannelCredentials | None, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self._session, self._credentials, self._metadata = session, credentials, metadata
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()  # those that may be open
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether ``aclose`` was called."""
        return self._closed.is_set()

    async def aclose(self) -> None:
        """Ends everything in progress."""
        self._closed.set()
        for stream in list(self._streams):
            stream.cancel()
        if self._channel is not None:
            await self._channel.close()

    def __reduce__(self) -> Never:
        raise TypeError("an AsyncClient cannot be pickled or copied, for it is a connection; make one in each process")

    async def run(self, plan: Plan[T]) -> T:
        """Runs the plan of a unary call and returns its result.

        Raises:
            RuntimeError: this client was closed before, or belongs to another event loop.
        """
        self._check_open()
        outcome: Any = None
        error: WhitError | None = None
        while True:
            try:
                step = plan.send(outcome) if error is None else plan.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome, error = await self._unary(step)

    async def stream(self, plan: StreamPlan, source: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
        """Runs the plan of a stream over the user's items; yields what it emits.

        The user's iterable runs here, in the user's task: what it raises goes to the user.

        Raises:
            RuntimeError: this client was closed before, or belongs to another event loop.
        """
        self._check_open()
        items = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        stream: _Stream | None = None
        outcome: Any = None
        error: WhitError | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if error is None else plan.throw(error)
                except StopIteration:
                    return
                outcome = error = None
                if step is PULL:
                    outcome = await _next(items)
                elif step is READY:
                    outcome = stream is not None and stream.is_ready()
                elif isinstance(step, Emit):
                    yield step.result
                elif isinstance(step, Open):
                    stream, error = await self._open(step.method, stream)
                elif isinstance(step, Invoke | Sleep):
                    outcome, error = await self._unary(step)
                else:
                    assert stream is not None
                    outcome, error = await self._message(stream, step)
        finally:
            plan.close()
            if stream is not None:
                await stream.aclose()

    async def _open(
        self, method: Method[Any, Any], before: _Stream | None
    ) -> tuple[_Stream, None] | tuple[None, WhitError]:
        if before is not None:
            await before.aclose()
        if self.is_closed:
            return None, self._session.closed_error(method)
        stream = _Stream(self._method(method), method, self._metadata)
        self._streams.add(stream)
        return stream, None

    async def _unary(self, step: Invoke | Sleep) -> tuple[Any, WhitError | None]:
        if isinstance(step, Sleep):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), step.delay_s)
            return None, None
        if self.is_closed:
            return None, self._session.closed_error(step.method)
        try:
            call = self._method(step.method)(step.request, timeout=step.timeout_s, metadata=self._metadata)
            return await call, None
        except grpc.RpcError as error:
            return None, self._session.error(error, step.method, step.limit_s)
        except asyncio.CancelledError:
            return None, self._closed_or_raise(step.method)

    async def _message(self, stream: _Stream, step: Any) -> tuple[Any, WhitError | None]:
        match step:
            case Send():
                await stream.send(step.message)
            case Receive():
                try:
                    return await stream.receive(step.timeout_s), None
                except TimeoutError:
                    return None, self._session.deadline_error(stream.method, step.timeout_s)
                except grpc.RpcError as error:
                    return None, self._session.error(error, stream.method, step.timeout_s)
                except asyncio.CancelledError:
                    return None, self._closed_or_raise(stream.method)
            case _:
                assert step is HALF_CLOSE
                await stream.half_close()
        return None, None

    def _closed_or_raise(self, method: Method[Any, Any]) -> WhitError:
        """In ``except CancelledError``: what closing the client did to a call is its error, what cancelled the task goes on."""
        task = asyncio.current_task()
        if self.is_closed and (task is None or not task.cancelling()):
            return self._session.closed_error(method)
        raise  # noqa: PLE0704 - see above

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError(
                "this AsyncClient belongs to the event loop that first used it, which is another one; "
                "make one in each loop (every asyncio.run has its own)"
            )
        self._loop = loop

    def _method(self, method: Method[Any, Any]) -> Any:
        if self._channel is None:
            self._channel = aio_channel(self._session.address, self._credentials)
        found = self._methods.get(method.path)
        if found is None:
            make = self._channel.stream_stream if method.is_stream else self._channel.unary_unary
            found = self._methods[method.path] = make(method.path, method.serialize, method.parse)
        return found


async def _next(items: Iterator[Any] | AsyncIterator[Any]) -> Any:
    return await anext(items, END) if isinstance(items, AsyncIterator) else next(items, END)


class _Stream:
    """One streaming call: a task of gRPC's sends what is put in a queue, and a read is always on its way."""

    def __init__(self, start: Any, method: Method[Any, Any], metadata: Sequence[tuple[str, str]]) -> None:
        self.method = method
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()  # bounded by the window of the plan
        self._call = start(self._messages(), metadata=metadata)
        self._status = _FirstStatus(self._call)
        # Not read(): it gives up what still comes once a message of ours could not be sent.
        self._messages_in = aiter(self._call)
        self._read = asyncio.ensure_future(self._next())

    async def _next(self) -> Any:
        return await anext(self._messages_in, END)

    async def _messages(self) -> AsyncIterator[Message]:
        while (message := await self._outgoing.get()) is not END:
            yield message

    async def send(self, message: Message) -> None:
        self._outgoing.put_nowait(message)
        await asyncio.sleep(0)  # a source that never awaits must not keep the message from being sent

    async def half_close(self) -> None:
        self._outgoing.put_nowait(END)

    def is_ready(self) -> bool:
        return bool(self._read.done())

    async def receive(self, timeout_s: float | None) -> Any:
        done, _ = await asyncio.wait({self._read}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        try:
            message = self._read.result()
        except grpc.aio.AioRpcError as error:
            first = await self._status.instead_of(error)
            if first.code() is grpc.StatusCode.OK:  # the server had ended the stream before our message was sent
                return END
            raise first from None
        if message is not END:
            self._read = asyncio.ensure_future(self._next())
        return message

    def cancel(self) -> None:
        """Ends the call; whoever waits for a message gets CancelledError."""
        self._outgoing.put_nowait(END)  # cancelling a call that ended already leaves gRPC's sending task waiting
        self._call.cancel()

    async def aclose(self) -> None:
        """Ends the call and the tasks; harmless where the server ended it already."""
        self.cancel()
        self._read.cancel()
        await asyncio.gather(self._read, return_exceptions=True)


class _FirstStatus:
    """The status that the server ended a call with.

    grpc.aio puts INTERNAL in its place if a message of ours could not be sent because the call had ended
    (https://github.com/grpc/grpc/issues/36066). The two may come in either order, so the server's is noted when it comes.
    """

    _MADE_UP = "Internal error from Core"
    _PATIENCE_S = 1.0  # if Core itself refused to send, no other status comes

    def __init__(self, call: Any) -> None:
        self._noted: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if details != self._MADE_UP and not self._noted.done():
            trailing = _at_once(call.trailing_metadata())
            self._noted.set_result(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """``error``, or the server's own if grpc.aio made ``error`` up."""
        if error.details() != self._MADE_UP:
            return error
        done, _ = await asyncio.wait({self._noted}, timeout=self._PATIENCE_S)
        return self._noted.result() if done else error


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for, as those that read the status of a finished call."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("the status of a finished call must be there")
