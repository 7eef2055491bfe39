"""The life of a server, from the settings to the last answer: start, serve, drain, close.

``running_server`` is a server inside a program (tests use it); ``serve`` is the daemon, with signals and an exit status.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from whit.contract import keepalive
from whit.contract.manifest import read_manifest
from whit.server.config import Config, describe
from whit.server.engine import Engine, LoadedModel, WorkerDiedError, usable_core_count
from whit.server.event_loop import run_async
from whit.server.index import CollectionStore
from whit.server.logs import logging_to_stderr
from whit.server.service.backend import Backend
from whit.server.service.collections import CollectionService
from whit.server.service.embedding import EmbeddingService
from whit.server.service.models import ModelService
from whit.server.service.points import PointService
from whit.server.service.rpc import Dispatcher
from whit.server.service.server_info import ServerService, whit_version
from whit.server.service.storage import Storage
from whit.v1 import collection_pb2, embedding_pb2, model_pb2, point_pb2, server_pb2

_logger = logging.getLogger(__name__)

_SERVICES = {
    embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]: EmbeddingService,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"]: ModelService,
    collection_pb2.DESCRIPTOR.services_by_name["CollectionService"]: CollectionService,
    point_pb2.DESCRIPTOR.services_by_name["PointService"]: PointService,
    server_pb2.DESCRIPTOR.services_by_name["ServerService"]: ServerService,
}
_SERVICE_NAMES = tuple(service.full_name for service in _SERVICES)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# After a drain that took too long, how long the calls that were then cancelled get to notice.
_CANCEL_TIMEOUT_S = 5.0

# Between "no call is in progress" and the end, for calls that are on their way in and for health to be told.
_SETTLE_S = 0.25

# Far more than one machine sends while the event loop looks away; each takes a few kilobytes.
_PENDING_CALL_COUNT = 100_000

# Supervisors and ``timeout`` signal a process and its group, so that one request to stop comes twice.
_SAME_SIGNAL_S = 0.5


class ListenError(OSError):
    """The server cannot listen on its address. The message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers.

    Attributes:
        address: what a client is given: with the real port.
        port: the real port; 0 for a socket in the file system.
        engine: the running engine; its ``watch`` tells when a worker dies.
        storage: the collections.
        dispatcher: knows the calls in progress.
    """

    address: str
    port: int
    engine: Engine
    storage: Storage
    dispatcher: Dispatcher


def serve(config: Config) -> int:
    """Serves until SIGTERM, SIGINT or SIGHUP, then drains; a second signal ends the process at once.

    Returns:
        The exit status: 0 after a signal, 1 if a worker thread died.

    Raises:
        DataDirectoryLocked, ListenError, PackageError, ServiceError: as ``running_server``.
    """
    with logging_to_stderr(config.log_format, config.log_level):
        _logger.info("whit %s starts", whit_version(), extra={"fields": describe(config)})
        status = run_async(_serve(config))
        _logger.info("stopped", extra={"fields": {"status": status}})
        return status


@contextlib.asynccontextmanager
async def running_server(config: Config) -> AsyncIterator[RunningServer]:
    """A server that answers while the block runs; after it, calls in progress have been let finish and all is on disk.

    Raises:
        DataDirectoryLocked: another server has the data directory.
        ListenError: the address cannot be had.
        PackageError: a package cannot be served.
        ServiceError: the data directory cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        # First what fails fast, then the models. It is all undone in the reverse order, whatever fails in between: but
        # the drain comes first, while everything is still there that the calls in progress need.
        await asyncio.to_thread(_check, config)
        worker_count = config.worker_count or usable_core_count()
        store = await asyncio.to_thread(CollectionStore, config.data)
        storage = Storage(store, reader_count=worker_count)
        stack.push_async_callback(asyncio.to_thread, storage.close)
        dispatcher, status = Dispatcher(config), health.aio.HealthServicer()
        server, port = _bind(config, dispatcher, status)
        await _set_health(status, _NOT_SERVING)
        await server.start()
        stack.push_async_callback(server.stop, None)
        models = await asyncio.to_thread(_load_models, config)
        threads = ThreadPoolExecutor(worker_count, thread_name_prefix="whit-convert")
        stack.push_async_callback(asyncio.to_thread, threads.shutdown)
        engine = await stack.enter_async_context(_engine(config, models, worker_count))
        stack.push_async_callback(_drain, config, server, dispatcher, status)
        backend = Backend(config, engine, storage, worker_count, threads)
        dispatcher.open({service.full_name: kind(backend) for service, kind in _SERVICES.items()})
        await _set_health(status, _SERVING)
        address = _address(config.listen, port)
        _logger.info("listening on %s", address)
        yield RunningServer(address, port, engine, storage, dispatcher)


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    with _signals(stop):
        async with running_server(config) as server:
            stopped, watch = asyncio.create_task(stop.wait()), asyncio.create_task(server.engine.watch())
            try:
                await asyncio.wait((stopped, watch), return_when=asyncio.FIRST_COMPLETED)
                died = watch.done()
            finally:
                stopped.cancel()
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError, WorkerDiedError):
                    await watch
    return 1 if died else 0


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Sets ``stop`` at the first signal to end, ends the process at the second: what was acknowledged is on disk."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it go on when the terminal is closed
        numbers.append(signal.SIGHUP)
    first_time: float | None = None

    def handle(number: signal.Signals) -> None:
        nonlocal first_time
        if first_time is not None and loop.time() - first_time < _SAME_SIGNAL_S:
            return
        if first_time is not None:
            _logger.warning("%s again: ending at once", number.name)
            os._exit(128 + number)
        first_time = loop.time()
        _logger.info("%s; a second signal ends at once", number.name)
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, partial(handle, number))
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _check(config: Config) -> None:
    """Refuses directories that are no packages, and an address that cannot be had, before anything is made on disk."""
    for directory in config.models:
        read_manifest(directory)
    try:
        _check_address(config.listen)
    except OSError as error:
        raise _listen_error(config.listen, error) from None


def _load_models(config: Config) -> dict[str, LoadedModel]:
    # Brings in onnxruntime, in a thread, while the loop answers health checks.
    from whit.server.engine.loading import load_models

    return load_models(config.models, allow_unverified=config.allow_unverified, provider=config.provider)


def _engine(config: Config, models: dict[str, LoadedModel], worker_count: int) -> Engine:
    return Engine(
        models,
        worker_count=worker_count,
        queue_token_count=config.queue_token_count,
        micro_batch_token_count=config.micro_batch_token_count,
        text_byte_count=config.text_byte_count,
    )


def _bind(config: Config, dispatcher: Dispatcher, status: health.aio.HealthServicer) -> tuple[grpc.aio.Server, int]:
    """A server with all handlers, bound to its address but not started."""
    server = grpc.aio.server(
        options=_options(config),
        # The dispatcher refuses with a reason; this only bounds what may pile up before it.
        maximum_concurrent_rpcs=2 * (config.max_call_count + config.max_stream_count),
    )
    server.add_generic_rpc_handlers(tuple(dispatcher.handlers(_SERVICES)))
    generic = _GenericHandlers(server)
    health_pb2_grpc.add_HealthServicer_to_server(status, generic)  # type: ignore[arg-type]
    names = (*_SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
        reflection.aio.ReflectionServicer(names), generic
    )
    try:
        port = server.add_insecure_port(config.listen)
    except RuntimeError as error:
        raise _listen_error(config.listen, error) from None
    return server, port


class _GenericHandlers:
    """A server to which a service's handlers are added, but its methods are not registered.

    For each registered method gRPC keeps a task that waits for a call to it, and looks after all of them at every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """Does nothing: the generic handlers answer."""


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.message_byte_count),
        ("grpc.max_send_message_length", config.message_byte_count),
        # A second server on the same port must fail, not take half of the connections.
        ("grpc.so_reuseport", 0),
        # Of calls that gRPC holds until Python takes them: with its own limits (1,000 and 3,000) it drops those of a burst, at
        # random and without a reason. The dispatcher refuses in words.
        ("grpc.server.max_pending_requests", _PENDING_CALL_COUNT),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALL_COUNT),
        # Notices clients that vanished without a word, and bears with those that ask the same of it.
        *keepalive.ping_options(keepalive.SERVER_INTERVAL_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", keepalive.LEAST_INTERVAL_MS),
    ]


def _listen_error(listen: str, error: OSError | RuntimeError) -> ListenError:
    # gRPC's own words end in advice about its environment variables.
    why = (error.strerror if isinstance(error, OSError) else None) or str(error).partition(";")[0]
    is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    cause = "; is another server running there? Stop it, or choose" if is_taken else "; choose"
    return ListenError(
        f"cannot listen on {listen} ({why}){cause} another address with --listen HOST:PORT (port 0 picks a free one)"
    )


def _check_address(listen: str) -> None:
    """Refuses an address that cannot be had, or on which somebody answers.

    gRPC would take a socket in the file system away from them, and write lines of its own on stderr about the rest.
    """
    if listen.startswith("unix:"):
        _check_path(Path(listen.removeprefix("unix:").removeprefix("//")))
    else:
        host, _, port = listen.rpartition(":")
        _check_port(host.strip("[]"), int(port))


def _check_path(path: Path) -> None:
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, f"there is no directory {path.parent}")
    if path.exists() and not path.is_socket():
        raise OSError(errno.EEXIST, "what is there is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return  # nothing is there, or what a server that was killed left behind
    raise OSError(errno.EADDRINUSE, "somebody answers there")


def _check_port(host: str, port: int) -> None:
    # gRPC binds to those addresses of a host that are there, and "any address" to IPv4 alone where there is no IPv6.
    missing: list[OSError] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(errno.EINVAL, "no host can have this name") from None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC: a closed connection is no server
                probe.bind(address)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                raise
            if error.errno == errno.EADDRNOTAVAIL:
                missing.append(error)
    if missing and len(missing) == len(found) and host not in ("::", "0.0.0.0"):  # noqa: S104
        raise missing[0]


async def _drain(
    config: Config, server: grpc.aio.Server, dispatcher: Dispatcher, status: health.aio.HealthServicer
) -> None:
    """Takes no more calls, lets those in progress finish within the drain timeout, and cancels what is left."""
    await _set_health(status, _NOT_SERVING)
    dispatcher.drain()
    _logger.info("draining", extra={"fields": {"calls": dispatcher.active_count}})
    stopping = asyncio.create_task(server.stop(config.drain_timeout_s))
    # Health watches and reflection have no end of their own: once every call of whit is done, they are not waited for.
    while not stopping.done():
        idle = asyncio.create_task(dispatcher.idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await asyncio.wait((stopping,), timeout=_SETTLE_S)
        if dispatcher.active_count == 0:
            break
    await server.stop(None)
    await stopping
    try:
        await asyncio.wait_for(dispatcher.idle(), _CANCEL_TIMEOUT_S)
    except TimeoutError:
        _logger.warning("calls did not end", extra={"fields": {"calls": dispatcher.active_count}})


async def _set_health(servicer: health.aio.HealthServicer, status: int) -> None:
    for name in ("", *_SERVICE_NAMES):
        await servicer.set(name, status)


def _address(listen: str, port: int) -> str:
    if listen.startswith("unix:"):
        return listen
    return f"{listen.rpartition(':')[0]}:{port}"
