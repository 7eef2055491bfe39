"""What the server costs: throughput over gRPC against the same package in process, cold start, memory.

python -m bench.serving [PACKAGE] [--rounds 5] [--out bench/results/serving.json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.data import collection, stsb
from bench.machine import describe
from bench.reference import reference_package
from bench.server import running
from whit.client import Client
from whit.runtime import Tokenizer, open_encoder, open_package

BATCH = 64
POINTS = 10_000


def mixed_texts(count: int) -> list[str]:
    """Short sentences, abstracts and cut abstracts in equal parts, shuffled the same way each time."""
    sts, abstracts = stsb("dev"), collection("cranfield", "dev").documents
    part = count // 3
    texts = [*sts.first[:part], *abstracts[:part], *[text[:300] for text in abstracts[part : 2 * part]]]
    random.Random(0).shuffle(texts)
    return texts


class InProcess:
    """The package called directly: all texts sorted into micro-batches, one thread a core."""

    def __init__(self, package: Path) -> None:
        opened = open_package(package)
        self._limit = opened.manifest.max_token_count
        self._tokenizer, self._encoder = Tokenizer(opened), open_encoder(opened)

    def embed(self, texts: Sequence[str], token_budget: int) -> None:
        """Tokenises and embeds; the vectors are dropped."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
            ids = [s for part in pool.map(self._tokenizer.encode, parts) for s in part]
            cut = [self._tokenizer.cut(s, self._limit) for s in ids]
            self._encoder.encode(cut, token_budget=token_budget, executor=pool)


def throughput(package: Path, scratch: Path, rounds: int, count: int) -> dict[str, Any]:
    """Texts/s in process (the better of two token budgets) and through the SDK's stream, in turns."""
    texts = mixed_texts(count)
    local = InProcess(package)
    rates: dict[str, list[float]] = {"in_process_256": [], "in_process_512": [], "grpc_stream": []}
    with running([package], scratch / "data") as server, Client(server.address) as whit:
        model = whit.models()[0].name

        def stream() -> None:
            batches = whit.embed_stream(texts, model=model, batch_size=BATCH, on_overflow="truncate")
            assert sum(len(batch) for batch in batches) == len(texts)

        contenders = {
            "in_process_256": lambda: local.embed(texts, 256),
            "in_process_512": lambda: local.embed(texts, 512),
            "grpc_stream": stream,
        }
        for contender in contenders.values():
            contender()  # warm up
        for _ in range(rounds):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender()
                rates[name].append(len(texts) / (time.perf_counter() - start))
    best = [max(a, b) for a, b in zip(rates["in_process_256"], rates["in_process_512"], strict=True)]
    return {
        "text_count": len(texts),
        **{f"{name}_texts_per_s": statistics.median(rate) for name, rate in rates.items()},
        "ratio": statistics.median(g / b for g, b in zip(rates["grpc_stream"], best, strict=True)),
        "ratios": [round(g / b, 4) for g, b in zip(rates["grpc_stream"], best, strict=True)],
    }


def cold_start(package: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Seconds from starting the process to its first answered Embed."""
    seconds = []
    for round_number in range(rounds):
        with running([package], scratch / f"cold-{round_number}") as server, Client(server.address) as whit:
            whit.embed(["first"], model=open_package(package).manifest.name)
            seconds.append(time.perf_counter() - server.start_time)
    return {"seconds": [round(s, 3) for s in seconds], "median_s": statistics.median(seconds)}


def memory(package: Path, scratch: Path) -> dict[str, Any]:
    """Resident bytes of the server once it has embedded and holds POINTS points, and after searching them."""
    sentences = [*stsb("dev").first, *stsb("dev").second]
    texts = [f"{sentences[i % len(sentences)]} ({i})" for i in range(POINTS)]
    with running([package], scratch / "memory") as server, Client(server.address) as whit:
        loaded, _ = server.memory_bytes()
        whit.create_collection("points", model=whit.models()[0].name, storage="int8")
        start = time.perf_counter()
        for at in range(0, POINTS, 500):
            ids = [str(i) for i in range(at, at + 500)]
            whit.upsert("points", ids=ids, texts=texts[at : at + 500])
        seconds = time.perf_counter() - start
        latencies = []
        for text in sentences[:200]:
            start = time.perf_counter()
            assert len(whit.search("points", text, limit=10)) == 10
            latencies.append(time.perf_counter() - start)
        assert whit.count("points") == POINTS
        now, peak = server.memory_bytes()
    return {
        "point_count": POINTS,
        "loaded_bytes": loaded,
        "resident_bytes": now,
        "peak_bytes": peak,
        "indexed_texts_per_s": POINTS / seconds,
        "search_p50_ms": 1e3 * statistics.median(latencies),
        "search_p95_ms": 1e3 * statistics.quantiles(latencies, n=20)[-1],
    }


def measure(package: Path, rounds: int, text_count: int) -> dict[str, Any]:
    """Cold start, memory, throughput."""
    content: dict[str, Any] = {"machine": describe(), "package": package.name}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "cold_start": lambda: cold_start(package, scratch, rounds),
            "memory": lambda: memory(package, scratch),
            "throughput": lambda: throughput(package, scratch, rounds, text_count),
        }
        for name, part in parts.items():
            content[name] = part()
            print(name, json.dumps(content[name]), flush=True)
    return content


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.package or reference_package("int8"), arguments.rounds, arguments.texts)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
