"""A regression gate in under three minutes: ``make bench-quick``.

python -m bench.quick [--update] [--rounds 5] [--out FILE]

Everything is a ratio of processor times taken in turns within one run, so that other load on the machine cancels out as far as it can: how
much cheaper a short text is in int8 than in float32, how much of a text's cost over gRPC is the model's own (a stream; single
calls), and whether vectors over gRPC are those in process, byte by byte, alone and in any batch. Exit status 1 if a ratio is below
that in ``bench/results/quick-KERNELS.json`` by more than its tolerance; ``--update`` writes that file. There is one for each
set of kernels that was measured, for processors differ in these ratios by twice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.__main__ import RESULTS
from bench.data import require, stsb
from bench.machine import describe
from bench.packages import Contender
from bench.reference import reference_package
from bench.server import ServerProcess, running
from bench.serving import BATCH
from whit.client import Client

TEXTS = 384
SINGLE = 100

TOLERANCES = {"int8_to_float32": 0.12, "in_process_to_stream": 0.12, "in_process_to_single": 0.2}
"""By how much of the baseline a ratio may fall: single calls are few, and what others do to the caches shows in them most."""


def main() -> None:
    """Measures, compares, prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--update", action="store_true", help="make what was measured the baseline")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    require()
    found = measure(reference_package("float32"), reference_package("int8"), arguments.rounds)
    recorded = RESULTS / f"quick-{found['provider']}.json"
    for path in [recorded] * arguments.update + [arguments.out] * bool(arguments.out):
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    baseline = json.loads(recorded.read_text(encoding="utf-8")) if recorded.is_file() else None
    for name, value in found["ratios"].items():
        before = f", baseline {baseline['ratios'][name]:.3f}" if baseline else ""
        print(f"{name}: {value:.3f}{before}")
    if baseline is None:
        print(f"nothing to compare with: there is no {recorded.name} yet; --update writes it")
    if faults := regressions(found, baseline):
        raise SystemExit("\n".join(faults))


def measure(float32: Path, int8: Path, rounds: int) -> dict[str, Any]:
    """The ratios, each the median over rounds, and what changed a vector."""
    texts = stsb("dev").first[:TEXTS]
    local = {"float32": Contender(float32), "int8": Contender(int8)}
    with (
        tempfile.TemporaryDirectory() as data,
        running([int8], Path(data)) as server,
        Client(server.address) as whit,
    ):
        model = whit.models()[0].name

        def stream() -> list[bytes]:
            batches = whit.embed_stream(texts, model=model, batch_size=BATCH)
            return [row.tobytes() for batch in batches for row in batch.vectors]

        def single() -> list[bytes]:
            return [whit.embed([text], model=model).vectors[0].tobytes() for text in texts[:SINGLE]]

        expected = [row.tobytes() for row in local["int8"].embed(texts)]
        changed = sum(a != b for a, b in zip(stream(), expected, strict=True))
        changed += sum(a != b for a, b in zip(single(), expected[:SINGLE], strict=True))
        changed += sum(
            local["int8"].embed([t])[0].tobytes() != e for t, e in zip(texts[:SINGLE], expected, strict=False)
        )
        costs = [
            {
                "float32": _own(lambda: local["float32"].embed(texts)) / TEXTS,
                "int8": _own(lambda: local["int8"].embed(texts)) / TEXTS,
                "stream": _server(server, stream) / TEXTS,
                "alone": _own(lambda: [local["int8"].embed([text]) for text in texts[:SINGLE]]) / SINGLE,
                "single": _server(server, single) / SINGLE,
            }
            for _ in range(rounds)
        ]
    return {
        "command": f"python -m bench.quick --update --rounds {rounds}",
        "machine": describe(),
        "provider": local["int8"].encoder.provider,
        "rounds": rounds,
        "ratios": ratios(costs),
        "cpu_ms_per_text": {name: round(1e3 * statistics.median(c[name] for c in costs), 4) for name in costs[0]},
        "changed_vectors": changed,
    }


def ratios(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of the ratios within rounds; larger is better in all of them."""
    pairs = {
        "int8_to_float32": ("float32", "int8"),
        "in_process_to_stream": ("int8", "stream"),
        "in_process_to_single": ("alone", "single"),
    }
    return {name: round(statistics.median(c[a] / c[b] for c in costs), 4) for name, (a, b) in pairs.items()}


def regressions(found: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[str]:
    """What got worse, in words."""
    faults = []
    if found["changed_vectors"]:
        faults.append(f"{found['changed_vectors']} vectors depend on how they were asked for")
    for name, before in (baseline or {"ratios": {}})["ratios"].items():
        least = before * (1 - TOLERANCES[name])
        if found["ratios"][name] < least:
            faults.append(f"{name} is {found['ratios'][name]:.3f}, less than {least:.3f} ({before:.3f} before)")
    return faults


def _own(work: Callable[[], object]) -> float:
    """Processor seconds of this thread, which computes everything."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def _server(server: ServerProcess, work: Callable[[], object]) -> float:
    """Processor seconds of the server."""
    start = server.cpu_seconds()
    work()
    return server.cpu_seconds() - start


if __name__ == "__main__":
    main()
