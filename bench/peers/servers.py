"""whit's server beside other servers of the same model, clients on the same cores: ``make bench-servers``.

python -m bench.peers.servers [--rounds 5] [--scale 1] [--only NAME...] [--prepare-only] [--out bench/results/servers.json]

Closed loop: 16 clients, each with one request on its way, in rounds with the servers in turns. Open loop: Poisson arrivals of one short text each at
rising rates, and how many are answered within a second. A run takes about 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe
from bench.peers import measure, report
from bench.peers.__main__ import PAGE
from bench.peers.contenders import BUILD, REQUIREMENTS, ROOT, Contender, servers
from bench.peers.prepare import prepare
from bench.peers.process import Worker, WorkerError
from bench.reference import checkpoint_folder, reference_package
from whit.cli.load_plan import arrival_times

RESULT = ROOT / "bench" / "results" / "servers.json"
CLIENTS = 16
DEADLINE_S = 1.0
RATES = (100, 200, 400, 800, 1600)
OPEN_SECONDS = 4.0


def main() -> None:
    """Prepares, measures, writes; see the module's docstring."""
    arguments = _parser().parse_args()
    wanted = [c for c in servers() if not arguments.only or c.name in arguments.only]
    checkpoint = checkpoint_folder()
    reference_package("int8")
    missing = prepare(wanted, checkpoint)
    for name, why in missing.items():
        print(f"left out: {name}: {why}", file=sys.stderr, flush=True)
    if arguments.prepare_only:
        return
    content = run([c for c in wanted if c.name not in missing], arguments.rounds, arguments.scale)
    content["left_out"] |= missing
    if arguments.out:
        arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if arguments.out.resolve() == RESULT:
            report.write_table(report.servers_markdown(content), PAGE, "servers")
    print(report.servers_markdown(content))


def loads(scale: float) -> dict[str, list[list[str]]]:
    """Requests of the closed loop by name: lists of texts."""
    texts = measure.read_texts(scale, "dev")
    short, mixed = texts.sets["short"], texts.sets["mixed"]
    long_batch = [short[(64 * i + j) % len(short)] for i in range(max(1, round(24 * scale))) for j in range(64)]
    return {
        "one_short": [[text] for text in short[: max(1, round(480 * scale))]],
        "batch_64": [long_batch[i : i + 64] for i in range(0, len(long_batch), 64)],
        "one_mixed": [[text] for text in mixed],
    }


def run(taking_part: Sequence[Contender], rounds: int, scale: float) -> dict[str, Any]:
    """Starts all servers, loads them in turns, ends them."""
    begin, given = time.perf_counter(), loads(scale)
    left_out: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    vectors: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = []
        for contender in taking_part:
            worker = Worker(contender, BUILD / f"{contender.name}.log")
            stack.callback(worker.close)
            try:
                start = worker.load()["start_seconds"]
                texts = [batch[0] for batch in given["one_mixed"][:50]]
                worker.request(op="embed", texts=texts, save=str(scratch / "vectors.npy"))
            except WorkerError as error:
                left_out[contender.name] = str(error)
                print(f"left out: {error}", file=sys.stderr, flush=True)
                continue
            vectors[contender.name] = np.load(scratch / "vectors.npy")
            rows[contender.name] = {"name": contender.name, "title": contender.title, "start_seconds": start}
            workers.append(worker)
        if not workers:
            raise SystemExit("no server could be started; see above")
        closed = _closed(workers, given, rounds)
        opened = {worker.contender.name: _open(worker, given["one_short"], scale) for worker in workers}
    first = workers[0].contender.name
    for name, row in rows.items():
        row["cosines_to_first"] = measure.compare(vectors[name], vectors[first])
        row["closed"] = {key: _summary(found, closed[first][key]) for key, found in closed[name].items()}
        row["open"], row["peak_mb"] = opened[name]
    return {
        "command": "make bench-servers",
        "machine": describe(),
        "rounds": rounds,
        "seconds": round(time.perf_counter() - begin),
        "clients": CLIENTS,
        "request_count": {name: len(batches) for name, batches in given.items()},
        "open": {"deadline_s": DEADLINE_S, "seconds": OPEN_SECONDS, "rates": list(RATES)},
        "requirements": {name: list(REQUIREMENTS[name]) for name in ("infinity", "mlserver")},
        "left_out": left_out,
        "servers": list(rows.values()),
    }


def _closed(
    workers: Sequence[Worker], given: dict[str, list[list[str]]], rounds: int
) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Samples by server and load: texts/s, latencies in ms, CPU ms a text (server and client), foreign cores."""
    found: dict[str, Any] = {worker.contender.name: {name: _empty() for name in given} for worker in workers}
    for number in range(-1, rounds):  # the first round warms up
        shift = number % len(workers)
        for name, batches in given.items():
            for worker in [*workers[shift:], *workers[:shift]]:
                part = batches if number >= 0 else batches[: max(1, len(batches) // 4)]
                reply = worker.request(op="closed", batches=part, clients=CLIENTS)
                if number >= 0:
                    count = sum(map(len, part))
                    samples = found[worker.contender.name][name]
                    samples["texts_per_s"].append(count / reply["seconds"])
                    samples["latency_ms"].append([1e3 * seconds for seconds in reply["latencies_s"]])
                    opening = CLIENTS * len(part[0])  # each client's first call is not timed, but it is work
                    samples["cpu_ms_per_text"].append(1e3 * reply["cpu_seconds"] / (count + opening))
                    samples["foreign_cores"].append(reply["foreign_cores"])
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def _empty() -> dict[str, list[Any]]:
    return {"texts_per_s": [], "latency_ms": [], "cpu_ms_per_text": [], "foreign_cores": []}


def _summary(samples: dict[str, list[Any]], base: dict[str, list[Any]]) -> dict[str, Any]:
    rates = samples["texts_per_s"]
    percentiles = np.median([np.percentile(calls, (50, 95, 99)) for calls in samples["latency_ms"]], axis=0)
    return {
        "texts_per_s": statistics.median(rates),
        "ratio": statistics.median(a / b for a, b in zip(rates, base["texts_per_s"], strict=True)),
        **{name: float(value) for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), percentiles, strict=True)},
        "cpu_ms_per_text": statistics.median(samples["cpu_ms_per_text"]),
        "foreign_cores": statistics.median(samples["foreign_cores"]),
        "samples": [round(rate, 2) for rate in rates],
    }


def _open(worker: Worker, batches: list[list[str]], scale: float) -> tuple[list[dict[str, Any]], float]:
    """One row a rate, until less than half is answered in time; and the server's peak memory in MB."""
    rows: list[dict[str, Any]] = []
    peak = 0.0
    for rate in RATES:
        due = arrival_times(rate, OPEN_SECONDS * min(1.0, scale), seed=rate).tolist()
        chosen = [batches[i % len(batches)] for i in range(len(due))]
        reply = worker.request(op="open", batches=chosen, due=due, deadline_s=DEADLINE_S)
        latencies = [1e3 * seconds for seconds in reply["latencies_s"]]
        in_time = len(latencies) - reply["late"]
        shown = np.percentile(latencies, (50, 99)).tolist() if latencies else [None, None]
        rows.append(
            {
                "rate": rate,
                "sent": len(due),
                "in_time_share": in_time / len(due),
                "goodput_per_s": in_time / len(due) * rate,
                "p50_ms": shown[0],
                "p99_ms": shown[1],
                "failed": reply["failed"],
                "late": reply["late"],
                "foreign_cores": reply["foreign_cores"],
            }
        )
        peak = reply["peak_bytes"][-1] / 1e6
        if in_time < len(due) / 2:
            break
    return rows, peak


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="servers")
    parser.add_argument("--prepare-only", action="store_true", help="install and convert, measure nothing")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
