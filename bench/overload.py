"""Overload: three times what the server can do, for a minute. What is answered in time, what is refused and how, memory.

python -m bench.overload [PACKAGE] [--texts 16] [--factor 3] [--seconds 60] [--deadline-ms 1000] [--apart] [--out bench/results/overload.json]

Open loop (``whit load``): requests of short texts are sent when they are due, whatever became of earlier ones. A sweep finds
the rate with the best goodput; capacity is the mean goodput at that rate just before and just after the overload. The load comes from
this process, on the same cores, and takes from the server what it needs for itself. With ``--apart`` the server has one half of
the cores and the load the other, as if it came from another machine. Beside it the same micro-batch is computed here from time
to time: where that takes longer, it is the machine that has become slower, and not the server.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.data import stsb
from bench.machine import bind, describe, probing
from bench.reference import reference_package
from bench.server import ServerProcess, running
from whit.cli.load import Target, measure
from whit.cli.load_plan import Report
from whit.cli.remote import Server
from whit.client import Client
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.server.event_loop import run_async

SWEEP = (0.7, 0.85, 1.0, 1.2)  # times the rate of a closed loop
SWEEP_S = 6.0
CAPACITY_S = 15.0
REFUSALS = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "NOT_SENT"}


def closed_loop_rate(client: Client, model: str, texts: list[str], size: int) -> float:
    """Texts/s of a bulk stream, which is close to what the machine can do, as requests/s."""
    start = time.perf_counter()
    count = sum(len(batch) for batch in client.embed_stream(texts, model=model, batch_size=64, on_overflow="truncate"))
    return count / (time.perf_counter() - start) / size


def reference_work(package: Path, texts: list[str]) -> Callable[[], object]:
    """A small micro-batch of the model, always the same."""
    opened = open_package(package)
    encoder = open_encoder(opened)
    sequences = Tokenizer(opened).encode(texts[:8])
    return lambda: encoder.run(sequences)


def run(
    target: Target,
    texts: list[str],
    rate: float,
    seconds: float,
    *,
    server: ServerProcess,
    work: Callable[[], object],
) -> dict[str, Any]:
    """One rate: the report of ``whit load``, processor time of both sides, the server's memory, and the machine's speed."""
    before, _ = server.memory_bytes()
    server_cpu, load_cpu = server.cpu_seconds(), time.process_time()
    with probing(work) as probes:
        report: Report = run_async(measure(target, texts, rate, seconds, seed=0))
    after, peak = server.memory_bytes()
    found = dataclasses.asdict(report) | {
        "server_cores": (server.cpu_seconds() - server_cpu) / report.duration_s,
        "load_cores": (time.process_time() - load_cpu) / report.duration_s,
        "probe_ms": statistics.harmonic_mean(probes),  # the mean speed: it changes by half within a run
        "rss_before": before,
        "rss_after": after,
        "rss_peak": peak,
    }
    print(
        f"{rate:8.1f}/s: {report.goodput:7.1f}/s in time, {report.statuses}, cores {found['server_cores']:.2f} server "
        f"{found['load_cores']:.2f} load, probe {found['probe_ms']:.1f} ms, {after / 1e6:.0f} MB",
        flush=True,
    )
    return found


def summary(before: dict[str, Any], overload: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """The figures that count. ``goodput_kept_at_same_speed`` is what would be left on a machine as fast as at capacity."""
    capacity = (before["goodput"] + after["goodput"]) / 2
    slowdown = overload["probe_ms"] / ((before["probe_ms"] + after["probe_ms"]) / 2)
    kept = overload["goodput"] / capacity
    statuses = overload["statuses"]
    excess = overload["request_count"] - statuses.get("OK", 0)
    exhausted = statuses.get("RESOURCE_EXHAUSTED", 0)
    refused = sum(statuses.get(name, 0) for name in REFUSALS)
    return {
        "capacity_per_s": capacity,
        "goodput_kept": kept,
        "machine_slowdown": slowdown,
        "goodput_kept_at_same_speed": kept * slowdown,
        "refused_in_time_share": refused / max(excess, 1),
        "exhausted_with_retry_info": overload["retry_info_count"] / exhausted if exhausted else 1.0,
        "rss_growth": overload["rss_after"] / before["rss_after"] - 1,
    }


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--texts", type=int, default=16, help="texts in a request")
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--apart", action="store_true", help="server and load on different cores")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    pairs = stsb("dev")
    texts = [*pairs.first, *pairs.second]
    package = given.package or reference_package("int8")
    model = open_package(package).manifest.name
    machine, cores = describe(), sorted(os.sched_getaffinity(0))
    if given.apart:
        bind(cores[: len(cores) // 2])
    with tempfile.TemporaryDirectory() as folder, running([package], Path(folder)) as server:
        if given.apart:
            bind(cores[len(cores) // 2 :])
        with Client(server.address) as client:
            closed_loop_rate(client, model, texts[:500], given.texts)  # warm up
            rate = closed_loop_rate(client, model, texts, given.texts)
        target = Target(Server(server.address), model, given.deadline_ms / 1e3, given.texts)
        measured = partial(run, target, texts, server=server, work=reference_work(package, texts))
        sweep = [measured(rate * factor, SWEEP_S) for factor in SWEEP]
        best = max(sweep, key=lambda each: each["goodput"])
        before = measured(best["rate"], CAPACITY_S)
        overload = measured(given.factor * best["goodput"], given.seconds)
        after = measured(best["rate"], CAPACITY_S)
    figures = summary(before, overload, after)
    found = {
        "machine": machine,
        "texts_per_request": given.texts,
        "deadline_ms": given.deadline_ms,
        "factor": given.factor,
        "apart": given.apart,
        **figures,
        "sweep": sweep,
        "before": before,
        "overload": overload,
        "after": after,
    }
    print(json.dumps(figures))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
