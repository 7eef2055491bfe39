"""Where every call enters and every error leaves: decoding, limits, errors as statuses, the access log.

The handlers are made from the services' descriptors, so a method of the protos without an implementation cannot go
unnoticed. A servicer has one coroutine a method, in snake case: ``async def embed(request, call) -> EmbedResponse``, or
for a stream ``async def stream_embed(stream) -> None``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf import descriptor as descriptors
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from whit.contract.errors import Problem, Reason, to_status
from whit.server.config import Config
from whit.server.engine.types import Flow
from whit.server.errors import ServiceError, defect, response_too_large
from whit.server.service.limits import ByteBudget, Places

_logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

# Message and status travel in headers, which clients bound (gRPC: 8 KiB by default, all together): the status in base64, the
# message with three bytes for each that is not printable ASCII.
_STATUS_BYTES = 4096
_MESSAGE_BYTES = 1000

# Of the time that a client gives a call, so much is kept for the answer to reach it, and never more than a tenth.
_ANSWER_S = 0.02

# How long the status of a stream may take to leave: it waits behind the answers, if the client does not read them.
_ABORT_S = 5.0


class Received:
    """A request as it came in, decoded when it is asked for.

    That is after its bytes were let in: a message of many small values takes a dozen times as much memory as its bytes.
    """

    def __init__(self, kind: type[Message], data: bytes) -> None:
        self.byte_count = len(data)
        self._kind = kind
        self._data = data
        self._message: Message | None = None

    def message(self) -> Any:
        """The message.

        Raises:
            ServiceError: MALFORMED_MESSAGE.
        """
        if self._message is None:
            try:
                self._message = self._kind.FromString(self._data)
            except DecodeError:
                raise ServiceError(
                    Problem(
                        Reason.MALFORMED_MESSAGE,
                        f"the {self.byte_count} bytes of the request are not the message this method takes, or a string in it "
                        "is not UTF-8; send what whit.v1 defines, and bytes that are no text in no string field",
                    )
                ) from None
            self._data = b""
        return self._message


class Call(NamedTuple):
    """What a servicer may know about a call.

    Attributes:
        deadline: ``time.monotonic()`` seconds; None for none.
        flow: its place in the engine's turns; a stream has one for all its batches.
    """

    deadline: float | None
    flow: Flow


class ClientGoneError(Exception):
    """A response could not be sent: nobody is left to be told anything."""


class Stream:
    """The two directions of a stream, as a servicer sees them."""

    def __init__(self, context: Context, budget: ByteBudget, draining: asyncio.Event, config: Config) -> None:
        self.call = Call(_deadline(context), Flow())
        self.budget = budget
        self._context = context
        self._draining = draining
        self._limit_bytes = config.message_byte_count
        self._idle_timeout_s = config.stream_idle_timeout_s or None
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()
        self._unanswered_count = -1  # the config has no answer

    async def read(self) -> Received | None:
        """The next message; None when the client has sent its last.

        Raises:
            ServiceError: SHUTTING_DOWN, the server is draining and takes no more; STREAM_IDLE, the client sent nothing for
                too long, although all that it sent was answered.
        """
        reading = asyncio.ensure_future(cast("Awaitable[Any]", self._context.read()))
        stop = asyncio.ensure_future(self._draining.wait())
        try:
            timeout_s = self._idle_timeout_s
            while not (await asyncio.wait((reading, stop), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED))[0]:
                timeout_s = self._idle_time_left()
            if not reading.done():
                raise ServiceError(_shutting_down())
            received = reading.result()
        finally:
            reading.cancel()
            stop.cancel()
        if not isinstance(received, Received):
            return None
        self._active_at, self._unanswered_count = self._clock(), self._unanswered_count + 1
        return received

    def _idle_time_left(self) -> float:
        """Seconds that the client may go on to send nothing.

        Raises:
            ServiceError: STREAM_IDLE, none.
        """
        assert self._idle_timeout_s is not None
        if self._unanswered_count > 0:
            return self._idle_timeout_s
        left_s = self._active_at + self._idle_timeout_s - self._clock()
        if left_s <= 0:
            raise _idle("sent nothing", self._idle_timeout_s, "every batch that was read is answered")
        return left_s

    async def write(self, response: Message) -> None:
        """Sends a response; waits while the client does not read.

        Raises:
            ServiceError: INVALID_REQUEST, the response is larger than a message may be; STREAM_IDLE, the client did not read
                for too long.
            ClientGoneError: the stream is broken or cancelled.
        """
        data = _serialized(response, self._limit_bytes)
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await self._context.write(data)
        except TimeoutError:
            assert self._idle_timeout_s is not None
            raise _idle("took no answer", self._idle_timeout_s, "send those that have no answer again") from None
        except grpc.aio.BaseError as error:
            raise ClientGoneError from error
        self._active_at, self._unanswered_count = self._clock(), self._unanswered_count - 1


class Dispatcher:
    """Makes the handlers of all services, lets calls in within the limits and answers for what goes wrong.

    The services may be given after the server has started, with ``open``: calls that come earlier wait for them.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._servicers: Mapping[str, object] = {}
        self._opened = asyncio.Event()
        self._draining = asyncio.Event()
        self._calls = Places(config.max_call_count, "max_call_count", "calls")
        self._streams = Places(config.max_stream_count, "max_stream_count", "streams")
        self._budget = ByteBudget(config.inflight_byte_count)

    @property
    def active_count(self) -> int:
        """Calls and streams in progress."""
        return self._calls.count + self._streams.count

    @property
    def held_byte_count(self) -> int:
        """Bytes of the requests being worked on."""
        return self._budget.used_bytes

    def handlers(self, services: Iterable[descriptors.ServiceDescriptor]) -> list[grpc.GenericRpcHandler]:
        """The handlers of all methods of the services, as gRPC takes them."""
        return [
            grpc.method_handlers_generic_handler(
                service.full_name, {method.name: self._handler(service, method) for method in service.methods}
            )
            for service in services
        ]

    def open(self, servicers: Mapping[str, object]) -> None:
        """Lets calls in. ``servicers`` is by full service name."""
        self._servicers = servicers
        self._opened.set()

    def drain(self) -> None:
        """Has the streams answer what they have read, then end with SHUTTING_DOWN. Unary calls go on."""
        self._draining.set()

    async def idle(self) -> None:
        """Waits until no call is in progress."""
        while self.active_count:
            await self._calls.none()
            await self._streams.none()

    def _handler(
        self, service: descriptors.ServiceDescriptor, method: descriptors.MethodDescriptor
    ) -> grpc.RpcMethodHandler[Any, Any]:
        path, name = f"/{service.full_name}/{method.name}", snake_case(method.name)
        reader = _reader(message_factory.GetMessageClass(method.input_type))

        def servicer_method() -> Callable[..., Awaitable[Any]]:
            found: Callable[..., Awaitable[Any]] = getattr(self._servicers[service.full_name], name)
            return found

        if method.client_streaming:

            async def stream(_: object, context: Context) -> None:
                await self._translated(path, context, self._stream(context, servicer_method), abort_timeout_s=_ABORT_S)

            return grpc.stream_stream_rpc_method_handler(stream, request_deserializer=reader)

        async def unary(received: Received, context: Context) -> bytes:
            response: bytes = await self._translated(path, context, self._unary(received, context, servicer_method))
            return response

        return grpc.unary_unary_rpc_method_handler(unary, request_deserializer=reader)

    async def _unary(
        self, received: Received, context: Context, method: Callable[[], Callable[..., Awaitable[Message]]]
    ) -> bytes:
        deadline = _deadline(context)
        with self._calls:
            self._budget.hold(received.byte_count)
            try:
                message = received.message()
                if not self._opened.is_set():
                    await self._opened.wait()
                response = await method()(message, Call(deadline, Flow()))
                return _serialized(response, self._config.message_byte_count)
            finally:
                self._budget.release(received.byte_count)

    async def _stream(self, context: Context, method: Callable[[], Callable[..., Awaitable[None]]]) -> None:
        stream = Stream(context, self._budget, self._draining, self._config)
        with self._streams:
            await self._opened.wait()
            await method()(stream)

    async def _translated(
        self, path: str, context: Context, work: Coroutine[Any, Any, Any], abort_timeout_s: float | None = None
    ) -> Any:
        """Runs the call; a ``ServiceError`` becomes its status, anything unforeseen INTERNAL. Cancellation passes."""
        start = time.monotonic()
        outcome = "CANCELLED"
        try:
            result = await work
            outcome = "OK"
        except ServiceError as error:
            outcome = error.problem.status_code.name
            await abort(context, error.problem, abort_timeout_s)
        except ClientGoneError:
            # Returning would have gRPC send a status on a call that is over, and log that it could not.
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001  (the last place where a defect can be logged and told)
            outcome = "INTERNAL"
            await abort(context, defect(error, path), abort_timeout_s)
        else:
            return result
        finally:
            if _logger.isEnabledFor(logging.DEBUG):
                milliseconds = round((time.monotonic() - start) * 1e3, 1)
                fields = {"method": path, "code": outcome, "ms": milliseconds, "peer": context.peer()}
                _logger.debug("call", extra={"fields": fields})


async def abort(context: Context, problem: Problem, timeout_s: float | None = None) -> NoReturn:
    """Ends the call with the problem as a rich status, or gives up after ``timeout_s``; None never does."""
    fitted = _fitted(problem)
    status = to_status(fitted).SerializeToString()
    ending = context.abort(fitted.status_code, fitted.message, (("grpc-status-details-bin", status),))
    try:
        if timeout_s is None:
            await ending
        else:
            async with asyncio.timeout(timeout_s):
                await ending
    except grpc.aio.AbortError:
        raise
    except (grpc.aio.BaseError, TimeoutError):
        # The call ended a moment ago, cancelled or past its deadline, or the client does not read what comes before the
        # status, and will find it if it ever does. Nobody is left to be told, and nothing is wrong.
        raise asyncio.CancelledError from None
    raise AssertionError("context.abort returned")


def snake_case(name: str) -> str:
    """``StreamEmbed`` -> ``stream_embed``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _fitted(problem: Problem) -> Problem:
    """The problem, with as many violations and as much of the message as headers hold."""
    kept = list(problem.violations)
    message = _cut(problem.message)
    fitted = problem if message == problem.message else replace(problem, message=message)
    while kept and to_status(fitted).ByteSize() > _STATUS_BYTES:
        kept = kept[: len(kept) // 2]
        fitted = replace(fitted, violations=kept)
    return fitted


def _cut(message: str) -> str:
    """As much of the message as its header holds."""
    if 3 * len(message.encode()) <= _MESSAGE_BYTES:  # nearly all, and refusals under load must be cheap
        return message
    sizes = accumulate(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode()) for c in message)
    count = sum(size <= _MESSAGE_BYTES for size in sizes)
    return message if count == len(message) else message[: count - 1] + "…"


def _reader(kind: type[Message]) -> Callable[[bytes], Received]:
    # Decoding here would make gRPC answer INTERNAL, and end a stream for one bad message.
    return partial(Received, kind)


def _deadline(context: Context) -> float | None:
    """The call's deadline, less what an answer takes on its way: a status that comes after it is not heard."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s - min(_ANSWER_S, remaining_s / 10)


def _serialized(response: Message, limit_bytes: int) -> bytes:
    data = response.SerializeToString()
    if len(data) > limit_bytes:
        raise ServiceError(response_too_large(len(data), limit_bytes))
    return data


def _idle(did: str, timeout_s: float, state: str) -> ServiceError:
    message = f"the client {did} for {timeout_s:g} s (stream_idle_timeout_s), so this stream ends; {state}; open another to go on"
    return ServiceError(
        Problem(Reason.STREAM_IDLE, message, metadata={"setting": "stream_idle_timeout_s"}, retry_after_s=0.0)
    )


def _shutting_down() -> Problem:
    return Problem(
        Reason.SHUTTING_DOWN,
        "the server is shutting down; every batch answered before this is done, send the others to another server or later",
        retry_after_s=1.0,
    )
