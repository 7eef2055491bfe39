"""What a single-text call costs: latency beside the same call in process, and calls a second beside gRPC's own ceiling.

python -m bench.unary [PACKAGE] [--rounds 20] [--out bench/results/unary.json]

The ceiling is a bare ``grpc.aio`` server that answers the same request with a ready response and does nothing else. For a lone
call there is a second one, which makes the call in process and answers with its vector: gRPC is slower after a run of the model, for
its caches are cold. Lone calls are made by one blocking caller, as most are. Two models cost next to nothing: a small table of token
vectors, and a transformer of a few kilobytes, for which onnxruntime is called. They and the first ceiling have one core, and one
asyncio process asks them from the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from bench.machine import bind, describe
from bench.reference import reference_package
from bench.server import ServerProcess, running
from tests.support import tables
from tests.support.packages import package as tiny_package
from whit.client import Client
from whit.export.parallel import core_count
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.server.event_loop import run_async
from whit.v1 import embedding_pb2

METHOD = "/whit.v1.EmbeddingService/Embed"
TEXT = "How do I undo the last commit?"
CALLERS = (1, 16, 64)
WARM_UP = 20  # a server learns what a model costs from its first runs, which are on one core
LONE_CALLS = 60  # of each contender in a round

Call = Callable[[], Awaitable[Any]]


def request_for(model: str) -> embedding_pb2.EmbedRequest:
    """The one call."""
    return embedding_pb2.EmbedRequest(options=embedding_pb2.EmbedOptions(model=f"models/{model}"), texts=[TEXT])


def embed_of(channel: Any) -> Any:
    """The method, called as its generated stub would."""
    return channel.unary_unary(
        METHOD,
        request_serializer=embedding_pb2.EmbedRequest.SerializeToString,
        response_deserializer=embedding_pb2.EmbedResponse.FromString,
    )


@contextlib.contextmanager
def blocking(address: str, model: str) -> Iterator[Callable[[], object]]:
    """A function that makes the one call and waits for the answer, over a channel of its own; it has warmed up."""
    request = request_for(model)
    with grpc.insecure_channel(address) as channel:
        embed = embed_of(channel)
        for _ in range(WARM_UP):
            embed(request, wait_for_ready=True, timeout=30)
        yield lambda: embed(request, timeout=30)


@contextlib.asynccontextmanager
async def calling(address: str, model: str) -> Any:
    """A coroutine function that makes the one call, over a channel of its own."""
    request = request_for(model)
    async with grpc.aio.insecure_channel(address) as channel:
        embed = embed_of(channel)
        await embed(request, wait_for_ready=True, timeout=30)
        yield lambda: embed(request, timeout=30)


async def closed_loop(call: Call, server: ServerProcess, callers: int, count: int) -> dict[str, float]:
    """``callers`` tasks that call one after another: calls a second, latencies, the server's processor time a call."""
    waiting, seconds = iter(range(count)), []

    async def caller() -> None:
        for _ in waiting:
            start = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - start)

    cpu, start = server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed = time.perf_counter() - start
    return {
        "calls_per_s": count / elapsed,
        "p50_ms": 1e3 * statistics.median(seconds),
        "p99_ms": 1e3 * statistics.quantiles(seconds, n=100)[-1],
        "server_cpu_ms": 1e3 * (server.cpu_seconds() - cpu) / count,
    }


def low_load(package: Path, rounds: int) -> dict[str, Any]:
    """A lone call by contender, beside the same in process: medians in ms, and of the rounds' differences.

    One server at a time is asked, in turns with the call in process, so that the caches are those of one server and one caller.
    """
    local_call, name = in_process(package), open_package(package).manifest.name
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = stack.enter_context(running([package], Path(folder)))
        bare, after_model = (stack.enter_context(ceiling(model)) for model in (None, package))
        client = stack.enter_context(Client(server.address))
        contenders: dict[str, Callable[[], object]] = {
            "bare_grpc_aio": stack.enter_context(blocking(bare.address, name)),
            "bare_grpc_aio_after_the_model": stack.enter_context(blocking(after_model.address, name)),
            "whit": stack.enter_context(blocking(server.address, name)),
            "whit_sdk": lambda: client.embed([TEXT], model=name),
        }
        medians: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for number in range(rounds):
            for contender in list(contenders)[:: -1 if number % 2 else 1]:
                local: list[float] = []
                remote: list[float] = []
                for _ in range(LONE_CALLS):
                    local.append(timed(lambda: local_call([TEXT])))
                    remote.append(timed(contenders[contender]))
                medians[contender].append((statistics.median(local), statistics.median(remote)))
    return {
        contender: {
            "in_process_p50_ms": statistics.median(a for a, _ in pairs),
            "p50_ms": statistics.median(b for _, b in pairs),
            "difference_ms": statistics.median(b - a for a, b in pairs),
            "differences_ms": [round(b - a, 3) for a, b in pairs],
        }
        for contender, pairs in medians.items()
    }


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def echo_size(folder: Path) -> dict[str, Path]:
    """The two packages that cost next to nothing."""
    table = folder / "table"
    table.mkdir()
    return {"table": tables.write(table), "graph": tiny_package("bert", "float32")}


async def next_to_nothing(rounds: int, count: int) -> dict[str, Any]:
    """Calls a second of two models that cost next to nothing and of the ceiling, in turns; each server has one core.

    The callers have the others, if there are any.
    """
    cores = sorted(os.sched_getaffinity(0))
    bind(cores[:1])
    with tempfile.TemporaryDirectory() as folder, ceiling() as bare:
        async with contextlib.AsyncExitStack() as stack:
            bare_call = await stack.enter_async_context(calling(bare.address, "any"))
            contenders = {"grpc_aio": (bare_call, bare)}
            for name, each in echo_size(Path(folder)).items():
                server = stack.enter_context(running([each], Path(folder, f"data-{name}")))
                call = await stack.enter_async_context(calling(server.address, open_package(each).manifest.name))
                contenders[name] = (call, server)
            bind(cores[1:] or cores)
            runs: dict[str, list[dict[str, float]]] = {}
            for _ in range(rounds):
                for callers in CALLERS:
                    for name, (ask, at) in contenders.items():
                        runs.setdefault(f"{name}_{callers}", []).append(await closed_loop(ask, at, callers, count))
    return {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in runs.items()}


@contextlib.contextmanager
def ceiling(model: Path | None = None) -> Iterator[ServerProcess]:
    """The bare server, as a process like whit's; runs that model before it answers, if one is given."""
    command = [sys.executable, "-m", "bench.unary", "--serve-bare", *([str(model)] if model else [])]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield ServerProcess(process, process.stdout.readline().strip(), start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def in_process(model: Path) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """A function from texts to vectors, on as many cores as the server has for a lone text."""
    package = open_package(model)
    tokenizer, encoder = Tokenizer(package), open_encoder(package)
    cores = min(core_count(), encoder.most_cores)
    return lambda texts: encoder.run(tokenizer.encode(texts), core_count=cores)


async def serve_bare(model: Path | None) -> None:
    """Answers every Embed with the same response, or with vectors of that model, until SIGTERM."""
    response = embedding_pb2.EmbedResponse(model_fingerprint="sha256:" + 64 * "0")
    response.vectors.add(data=bytes(128))
    call = in_process(model) if model else None

    async def embed(request: embedding_pb2.EmbedRequest, _: object) -> embedding_pb2.EmbedResponse:
        if call is not None:
            response.vectors[0].data = call(list(request.texts)).tobytes()
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        embed,
        request_deserializer=embedding_pb2.EmbedRequest.FromString,
        response_serializer=embedding_pb2.EmbedResponse.SerializeToString,
    )
    service, method = METHOD.strip("/").split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await server.wait_for_termination()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--rounds", type=int, default=20, help="of lone calls; a quarter as many of the others")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve_bare:
        run_async(serve_bare(given.package))
        return
    machine = describe()
    lone = low_load(given.package or reference_package("int8"), given.rounds)
    quick = asyncio.run(next_to_nothing(-(-given.rounds // 4), given.calls))
    found = {"machine": machine, "low_load": lone, **quick}
    for name, figures in {**lone, **quick}.items():
        print(name, json.dumps(figures))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
