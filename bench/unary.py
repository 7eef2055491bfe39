"""What a single-text call costs: latency beside the same call in process, and calls a second beside gRPC's own ceiling.

python -m bench.unary [PACKAGE] [--rounds 5] [--out bench/results/unary.json]

The ceiling is a bare ``grpc.aio`` server that answers the same request with a ready response and does nothing else. Two models
cost next to nothing: a small table of token vectors, and a transformer of a few kilobytes, for which onnxruntime is called. The clients
are the same for all: one asyncio process with one channel, on the same cores as the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
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

from bench.machine import describe
from bench.reference import reference_package
from bench.server import ServerProcess, running
from tests.support import tables
from tests.support.packages import package as tiny_package
from whit.export.parallel import core_count
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.v1 import embedding_pb2

METHOD = "/whit.v1.EmbeddingService/Embed"
TEXT = "How do I undo the last commit?"
CALLERS = (1, 16, 64)

Call = Callable[[], Awaitable[Any]]


@contextlib.asynccontextmanager
async def calling(address: str, model: str) -> Any:
    """A function that makes the one call, over a channel of its own."""
    request = embedding_pb2.EmbedRequest(options=embedding_pb2.EmbedOptions(model=f"models/{model}"), texts=[TEXT])
    async with grpc.aio.insecure_channel(address) as channel:
        embed = channel.unary_unary(
            METHOD,
            request_serializer=embedding_pb2.EmbedRequest.SerializeToString,
            response_deserializer=embedding_pb2.EmbedResponse.FromString,
        )
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


async def low_load(call: Call, bare_call: Call, package: Path, rounds: int, count: int) -> dict[str, Any]:
    """The call alone, in process and over gRPC in turns: median latencies in ms, and the difference in each round.

    The bare call is made after one in process too, which leaves the caches as cold as it finds them beside a model.
    """
    opened = open_package(package)
    tokenizer, encoder = Tokenizer(opened), open_encoder(opened)
    cores = min(core_count(), encoder.most_cores)  # as the server
    medians: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        local: list[float] = []
        remote: list[float] = []
        bare: list[float] = []
        for number in range(2 * count):
            start = time.perf_counter()
            encoder.run(tokenizer.encode([TEXT]), core_count=cores)
            local.append(time.perf_counter() - start)
            ask, seconds = (call, remote) if number % 2 else (bare_call, bare)
            start = time.perf_counter()
            await ask()
            seconds.append(time.perf_counter() - start)
        medians.append((1e3 * statistics.median(local), 1e3 * statistics.median(remote), 1e3 * statistics.median(bare)))
    return {
        "in_process_p50_ms": statistics.median(a for a, _, _ in medians),
        "grpc_p50_ms": statistics.median(b for _, b, _ in medians),
        "bare_grpc_aio_p50_ms": statistics.median(c for _, _, c in medians),
        "difference_ms": statistics.median(b - a for a, b, _ in medians),
        "differences_ms": [round(b - a, 3) for a, b, _ in medians],
    }


def echo_size(folder: Path) -> dict[str, Path]:
    """The two packages that cost next to nothing."""
    table = folder / "table"
    table.mkdir()
    return {"table": tables.write(table), "graph": tiny_package("bert", "float32")}


async def measure(package: Path, rounds: int, count: int) -> dict[str, Any]:
    """Low load with ``package``; calls a second of two models that cost next to nothing and of the ceiling, in turns."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ceiling() as bare:
        packages = echo_size(Path(folder))
        async with contextlib.AsyncExitStack() as stack:
            bare_call = await stack.enter_async_context(calling(bare.address, "any"))
            with running([package], Path(folder, "a")) as server:
                async with calling(server.address, open_package(package).manifest.name) as call:
                    found["low_load"] = await low_load(call, bare_call, package, rounds, 200)
            print("low_load", json.dumps(found["low_load"]), flush=True)
            contenders = {"grpc_aio": (bare_call, bare)}
            for name, each in packages.items():
                server = stack.enter_context(running([each], Path(folder, f"data-{name}")))
                call = await stack.enter_async_context(calling(server.address, open_package(each).manifest.name))
                contenders[name] = (call, server)
            runs: dict[str, list[dict[str, float]]] = {}
            for _ in range(rounds):
                for callers in CALLERS:
                    for name, (ask, at) in contenders.items():
                        runs.setdefault(f"{name}_{callers}", []).append(await closed_loop(ask, at, callers, count))
    for name, rows in runs.items():
        found[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        print(name, json.dumps(found[name]), flush=True)
    return found


@contextlib.contextmanager
def ceiling() -> Iterator[ServerProcess]:
    """The bare server, as a process like whit's."""
    command = [sys.executable, "-m", "bench.unary", "--serve-bare"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield ServerProcess(process, process.stdout.readline().strip(), start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def serve_bare() -> None:
    """Answers every Embed with the same response, until SIGTERM."""
    response = embedding_pb2.EmbedResponse(model_fingerprint="sha256:" + 64 * "0")
    response.vectors.add(data=bytes(128))

    async def embed(request: embedding_pb2.EmbedRequest, _: object) -> embedding_pb2.EmbedResponse:
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve_bare:
        asyncio.run(serve_bare())
        return
    package = given.package or reference_package("int8")
    found = {"machine": describe(), **asyncio.run(measure(package, given.rounds, given.calls))}
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
