"""What a call costs that is refused at once, in processor time that the model would have had: gRPC's own part, without whit's.

python -m bench.refusals [PACKAGE] [--rate 240] [--rounds 5] [--out bench/results/refusals.json]

Two bare servers that refuse every call, ``grpc.aio`` and gRPC's threaded one. In each process every core runs a model over and over,
as whit's workers do under overload. How much less they get done while ``whit load``'s calls come in, than just before and
just after, is what the calls cost, on both ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench.data import stsb
from bench.machine import describe
from bench.reference import reference_package
from whit.cli.load import Target, measure
from whit.cli.remote import Server
from whit.contract.errors import Problem, Reason, to_status
from whit.export.parallel import core_count
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.server.event_loop import run_async

IDLE_S = 3.0
LOAD_S = 6.0
WORKER_NICENESS = 3  # as whit's
REFUSAL = Problem(
    Reason.DEADLINE_EXCEEDED,
    "the call may take 1.24 s from now but its deadline is in 0.98 s, so none of what was left of it was started. "
    "Give the call more time, or send smaller batches",
)
DETAILS = (("grpc-status-details-bin", to_status(REFUSAL).SerializeToString()),)


@dataclass
class BareServer:
    """A server process; ``runs`` says how many micro-batches it has run, and when that was."""

    process: subprocess.Popen[str]
    address: str

    def runs(self) -> tuple[int, float]:
        """The micro-batches run so far, and ``time.perf_counter()`` seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), time.perf_counter()

    def rate(self, seconds: float) -> float:
        """Micro-batches a second while nothing is asked."""
        (before, start), _ = self.runs(), time.sleep(seconds)
        after, end = self.runs()
        return (after - before) / (end - start)


@contextlib.contextmanager
def refusing(kind: str, package: Path) -> Iterator[BareServer]:
    """A server that refuses, in a process of its own."""
    command = [sys.executable, "-m", "bench.refusals", str(package), "--serve", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield BareServer(process, process.stdout.readline().strip())
        process.communicate()  # at the end of its input it stops


def cost(server: BareServer, rate: float, texts: list[str], size: int) -> dict[str, float]:
    """Core milliseconds a call that the model did not have, and those of the load among them."""
    target = Target(Server(server.address), "any", 1.0, size)
    idle_before = server.rate(IDLE_S)
    (before, start), cpu = server.runs(), time.process_time()
    report = run_async(measure(target, texts, rate, LOAD_S, seed=0))
    (after, end), cpu = server.runs(), time.process_time() - cpu
    idle = (idle_before + server.rate(IDLE_S)) / 2
    lost_s = core_count() * (1 - (after - before) / (end - start) / idle) * (end - start)
    return {
        "runs_per_s": idle,
        "lost_core_ms": 1e3 * lost_s / report.request_count,
        "load_cpu_ms": 1e3 * cpu / report.request_count,
    }


def run_model(package: Path, done: list[int], stop: threading.Event) -> list[threading.Thread]:
    """A thread a core that runs one micro-batch over and over; ``done`` counts them."""
    opened = open_package(package)
    encoder, sequences = open_encoder(opened), Tokenizer(opened).encode(stsb("dev").first[:32])

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
        while not stop.is_set():
            encoder.run(sequences)
            done.append(1)

    threads = [threading.Thread(target=work) for _ in range(core_count())]
    for thread in threads:
        thread.start()
    return threads


def handler(refuse: Any) -> grpc.GenericRpcHandler:
    """One that answers every Embed."""
    method = grpc.unary_unary_rpc_method_handler(refuse)
    return grpc.method_handlers_generic_handler("whit.v1.EmbeddingService", {"Embed": method})


async def serve_aio(package: Path) -> None:
    """Refuses on an event loop until the input ends."""

    async def refuse(_: bytes, context: Any) -> None:
        await context.abort(REFUSAL.status_code, REFUSAL.message, DETAILS)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler(refuse),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(report, port, package)
    await server.stop(None)


def serve_threads(package: Path) -> None:
    """Refuses on threads until the input ends."""

    def refuse(_: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(DETAILS)
        context.set_code(REFUSAL.status_code)
        context.set_details(REFUSAL.message)
        return b""

    server = grpc.server(ThreadPoolExecutor(core_count()))
    server.add_generic_rpc_handlers((handler(refuse),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    report(port, package)
    server.stop(None).wait()


def report(port: int, package: Path) -> None:
    """Runs the model until the input ends, and says at each line of it how often it has."""
    done: list[int] = []
    stop = threading.Event()
    threads = run_model(package, done, stop)
    print(f"127.0.0.1:{port}", flush=True)
    for _ in sys.stdin:
        print(len(done), flush=True)
    stop.set()
    for thread in threads:
        thread.join()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--rate", type=float, default=240.0, help="calls a second")
    parser.add_argument("--texts", type=int, default=16, help="texts in a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", choices=["aio", "threads"], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    package = given.package or reference_package("int8")
    if given.serve == "aio":
        return run_async(serve_aio(package))
    if given.serve == "threads":
        return serve_threads(package)
    pairs = stsb("dev")
    rows: dict[str, list[dict[str, float]]] = {"aio": [], "threads": []}
    for _ in range(given.rounds):
        for kind, found in rows.items():
            with refusing(kind, package) as server:
                found.append(cost(server, given.rate, [*pairs.first, *pairs.second], given.texts))
            print(kind, json.dumps({name: round(value, 3) for name, value in found[-1].items()}), flush=True)
    medians = {
        kind: {name: statistics.median(row[name] for row in found) for name in found[0]} for kind, found in rows.items()
    }
    print(json.dumps(medians))
    if given.out:
        content = {"machine": describe(), "rate": given.rate, "texts_per_request": given.texts, "rows": rows, **medians}
        given.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
