"""Carries out plans over a blocking channel. It decides nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Never, TypeVar

import grpc
from google.protobuf.message import Message

from whit.client._calls import Session
from whit.client._channel import options
from whit.client._errors import WhitError
from whit.client._methods import Method
from whit.client._steps import END, HALF_CLOSE, PULL, READY, Emit, Invoke, Open, Plan, Receive, Send, Sleep, StreamPlan

T = TypeVar("T")


class SyncTransport:
    """A channel and what runs plans on it. Any thread may call it, several at a time."""

    def __init__(
        self, session: Session, credentials: grpc.ChannelCredentials | None, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self._session, self._metadata = session, metadata
        self._channel = (
            grpc.insecure_channel(session.address, options(session.address))
            if credentials is None
            else grpc.secure_channel(session.address, credentials, options(session.address))
        )
        self._methods: dict[str, Any] = {}
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Ends everything in progress."""
        self._closed.set()
        self._channel.close()

    def __reduce__(self) -> Never:
        raise TypeError("a Client cannot be pickled or copied, for it is a connection; make one in each process")

    def run(self, plan: Plan[T]) -> T:
        """Runs the plan of a unary call and returns its result.

        Raises:
            RuntimeError: this client was closed before.
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
            outcome, error = self._unary(step)

    def stream(self, plan: StreamPlan, source: Iterable[Any]) -> Generator[Any, None, None]:
        """Runs the plan of a stream over the user's items; yields what it emits.

        The user's iterable runs here, in the user's thread: what it raises goes to the user.

        Raises:
            RuntimeError: this client was closed before.
        """
        self._check_open()
        items = iter(source)
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
                    outcome = next(items, END)
                elif step is READY:
                    outcome = stream is not None and stream.is_ready()
                elif isinstance(step, Emit):
                    yield step.result
                elif isinstance(step, Open):
                    stream, error = self._open(step.method, stream)
                elif isinstance(step, Invoke | Sleep):
                    outcome, error = self._unary(step)
                else:
                    assert stream is not None
                    outcome, error = self._message(stream, step)
        finally:
            plan.close()
            if stream is not None:
                stream.close()

    def _open(self, method: Method[Any, Any], before: _Stream | None) -> tuple[_Stream, None] | tuple[None, WhitError]:
        if before is not None:
            before.close()
        if self.is_closed:
            return None, self._session.closed_error(method)
        try:
            return _Stream(self._method(method), method, self._metadata), None
        except ValueError:
            return None, self._closed_or_raise(method)

    def _unary(self, step: Invoke | Sleep) -> tuple[Any, WhitError | None]:
        if isinstance(step, Sleep):
            self._closed.wait(step.delay_s)
            return None, None
        if self.is_closed:
            return None, self._session.closed_error(step.method)
        try:
            return self._method(step.method)(step.request, timeout=step.timeout_s, metadata=self._metadata), None
        except grpc.RpcError as error:
            return None, self._session.error(error, step.method, step.limit_s)
        except ValueError:
            return None, self._closed_or_raise(step.method)

    def _closed_or_raise(self, method: Method[Any, Any]) -> WhitError:
        """In ``except ValueError``: what gRPC says of a channel that was closed a moment ago is the call's error."""
        if not self.is_closed:
            raise  # noqa: PLE0704 - see above
        return self._session.closed_error(method)

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("this client is closed; make a new one")

    def _message(self, stream: _Stream, step: Any) -> tuple[Any, WhitError | None]:
        match step:
            case Send():
                stream.send(step.message)
            case Receive():
                try:
                    return stream.receive(step.timeout_s), None
                except queue.Empty:
                    return None, self._session.deadline_error(stream.method, step.timeout_s)
                except grpc.RpcError as error:
                    return None, self._session.error(error, stream.method, step.timeout_s)
            case _:
                assert step is HALF_CLOSE
                stream.half_close()
        return None, None

    def _method(self, method: Method[Any, Any]) -> Any:
        found = self._methods.get(method.path)
        if found is None:
            make = self._channel.stream_stream if method.is_stream else self._channel.unary_unary
            found = self._methods[method.path] = make(method.path, method.serialize, method.parse)
        return found


class _Stream:
    """One streaming call. A thread of gRPC's sends what is put in a queue, one of ours fills another with what comes.

    So neither sending nor looking whether something came ever blocks the user's thread, and the user's iterable is not
    run by a thread of gRPC's, which would swallow its exceptions.
    """

    def __init__(self, start: Any, method: Method[Any, Any], metadata: Sequence[tuple[str, str]]) -> None:
        self.method = method
        # Both are bounded by the window of the plan.
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = start(iter(self._outgoing.get, END), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="whit-client-stream", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._incoming.put(message)
        except grpc.RpcError as error:
            self._incoming.put(error)
        else:
            self._incoming.put(END)

    def send(self, message: Message) -> None:
        self._outgoing.put(message)

    def half_close(self) -> None:
        self._outgoing.put(END)

    def is_ready(self) -> bool:
        return not self._incoming.empty()

    def receive(self, timeout_s: float | None) -> Any:
        message = self._incoming.get(timeout=timeout_s)
        if isinstance(message, grpc.RpcError):
            raise message
        return message

    def close(self) -> None:
        """Ends the call and both threads; harmless where the server ended it already."""
        self._outgoing.put(END)
        self._call.cancel()
        self._reader.join()
