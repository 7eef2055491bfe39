"""Mixed load: a bulk stream at full speed beside interactive calls at a fixed rate, each alone and then together.

python -m bench.mixed [PACKAGE] [--interactive search|embed] [--rate 20] [--seconds 12] [--texts mixed|short] [--out FILE]

Interactive calls are due at fixed times and their latency counts from when they were due, so that a call that holds up
the next ones is charged for it. The bulk client is a process of its own: it shares cores with the server, but no GIL
with the interactive client.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench.data import stsb
from bench.machine import describe
from bench.reference import reference_package
from bench.server import ServerProcess, running
from bench.serving import BATCH, mixed_texts
from whit.client import Client

POINTS = 300
SETTLE_S = 2.0  # from the start of the bulk stream to the measurement


@contextmanager
def bulk(address: str, model: str, texts: Sequence[str]) -> Iterator[Callable[[], int]]:
    """Streams texts round and round while the block runs; yields a function that tells how many came back so far."""
    context = multiprocessing.get_context("spawn")
    stop, count = context.Event(), context.Value("q", 0)
    process = context.Process(target=_stream, args=(address, model, texts, stop, count))
    process.start()
    try:
        time.sleep(SETTLE_S)
        yield lambda: int(count.value)
    finally:
        stop.set()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the bulk client failed with exit code {process.exitcode}")


def _stream(address: str, model: str, texts: Sequence[str], stop: Event, count: Any) -> None:
    with Client(address) as whit:
        source = itertools.takewhile(lambda _: not stop.is_set(), itertools.cycle(texts))
        for batch in whit.embed_stream(source, model=model, batch_size=BATCH, on_overflow="truncate"):
            count.value += len(batch)


def interactive(call: Callable[[str], object], texts: Sequence[str], rate: float, seconds: float) -> list[float]:
    """Makes calls at the given rate; seconds from when each was due until it was answered.

    Where a server is so slow that the calls take longer than twice ``seconds``, the rest are not made.
    """
    latencies: list[float] = []
    start = time.perf_counter()
    for i in range(round(rate * seconds)):
        due = start + i / rate
        if time.perf_counter() - start > 2 * seconds:
            break
        time.sleep(max(0.0, due - time.perf_counter()))
        call(texts[i % len(texts)])
        latencies.append(time.perf_counter() - due)
    return latencies


def measure(package: Path, *, kind: str, rate: float, seconds: float, texts: Sequence[str]) -> dict[str, Any]:
    """Interactive alone, bulk alone, both together."""
    queries = stsb("dev").first
    with (
        tempfile.TemporaryDirectory() as data,
        running([package], Path(data)) as server,
        Client(server.address) as whit,
    ):
        model = whit.models()[0].name
        calls: dict[str, Callable[[str], object]] = {
            "embed": lambda text: whit.embed([text], model=model),
            "search": lambda text: whit.search("points", text, limit=10),
        }
        whit.create_collection("points", model=model)
        whit.upsert("points", ids=[str(i) for i in range(POINTS)], texts=queries[:POINTS])
        for text in queries[:20]:
            calls[kind](text)  # warm up
        alone = interactive(calls[kind], queries, rate, seconds)
        with bulk(server.address, model, texts) as done:
            unloaded = _rates(server, done, lambda: time.sleep(seconds))
            answered: list[float] = []
            loaded = _rates(server, done, lambda: answered.extend(interactive(calls[kind], queries, rate, seconds)))
    quantiles = {"alone": _quantiles(alone), "loaded": _quantiles(answered)}
    return {
        "machine": describe(),
        "package": package.name,
        "interactive": kind,
        "rate_per_s": rate,
        "call_counts": {"alone": len(alone), "loaded": len(answered)},
        "latency_ms": quantiles,
        "p99_ratio": round(quantiles["loaded"]["p99"] / quantiles["alone"]["p99"], 3),
        "bulk_alone": unloaded,
        "bulk_loaded": loaded,
        "bulk_ratio": round(loaded["texts_per_s"] / unloaded["texts_per_s"], 3),
        "bulk_ratio_by_cpu": round(loaded["texts_per_cpu_s"] / unloaded["texts_per_cpu_s"], 3),
    }


def _rates(server: ServerProcess, done: Callable[[], int], meanwhile: Callable[[], object]) -> dict[str, float]:
    """Bulk texts by time and by processor time of the server: the latter holds where others use the machine too."""
    count, start, cpu = done(), time.perf_counter(), server.cpu_seconds()
    meanwhile()
    count = done() - count
    return {
        "texts_per_s": round(count / (time.perf_counter() - start), 1),
        "texts_per_cpu_s": round(count / (server.cpu_seconds() - cpu), 1),
    }


def _quantiles(latencies: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {f"p{n}": round(1e3 * cuts[n - 1], 2) for n in (50, 95, 99)}


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--interactive", choices=("search", "embed"), default="search")
    parser.add_argument("--rate", type=float, default=20.0, help="interactive calls a second")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each of the three parts")
    parser.add_argument("--texts", choices=("mixed", "short"), default="mixed", help="what the bulk stream sends")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts = mixed_texts(1500) if arguments.texts == "mixed" else stsb("dev").second
    package = arguments.package or reference_package("int8")
    found = measure(package, kind=arguments.interactive, rate=arguments.rate, seconds=arguments.seconds, texts=texts)
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
