"""A long load of mixed texts on one server: its memory must not grow, its vectors must not change, and idle must be idle.

python -m bench.soak PACKAGE [--texts 500000] [--out bench/results/soak.json]

Most texts are sentences, 2 % abstracts, 0.5 % longer than any limit, so that they fill the package's (make the package with
``whit export --max-token-count 512``). Exit status 1 if resident memory after the warm-up (the first 5 %) exceeds 1.2 times
that at its end, a vector changed, or the idle server uses 1 % of a core or more.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import collection, stsb
from bench.machine import describe
from bench.server import ServerProcess, running
from bench.serving import BATCH
from whit.client import Client, Unavailable

CHUNK = 5_000
WARM_UP_SHARE = 0.05
MEMORY_LIMIT = 1.2
IDLE_LIMIT = 0.01
IDLE_S = 20.0
SHARES = {"abstract": 0.02, "overlong": 0.005}  # the rest are sentences
_OVERLONG_CHARACTERS = 6_000


def mixture(size: int = CHUNK) -> Iterator[list[str]]:
    """Endless chunks of ``size`` texts, every one a new random mix, the same each time."""
    sentences = [*stsb("train").first, *stsb("train").second, *stsb("dev").first, *stsb("dev").second]
    abstracts = collection("cranfield", "dev").documents
    rng = random.Random(0)
    while True:
        parts = {kind: round(share * size) for kind, share in SHARES.items()}
        texts = [text[: rng.randint(100, len(text) + 100)] for text in rng.choices(abstracts, k=parts["abstract"])]
        texts += [_overlong(abstracts, rng) for _ in range(parts["overlong"])]
        texts += rng.choices(sentences, k=size - len(texts))
        rng.shuffle(texts)
        yield texts


def _overlong(abstracts: Sequence[str], rng: random.Random) -> str:
    text = ""
    while len(text) < _OVERLONG_CHARACTERS:
        text += rng.choice(abstracts) + " "
    return text


@dataclass
class Course:
    """What was seen. ``timeline`` has, after each chunk: texts answered so far and the most resident bytes since the last."""

    answered: int = 0
    tokens: int = 0
    full_length: int = 0
    broken_streams: int = 0
    changed_vectors: int = 0
    timeline: list[tuple[int, int]] = field(default_factory=list)

    def warm(self, count: int) -> tuple[int, int]:
        """Resident bytes at the end of the warm-up, and the most after it."""
        last = max(1, sum(answered <= WARM_UP_SHARE * count for answered, _ in self.timeline))
        return self.timeline[last - 1][1], max(resident for _, resident in self.timeline[last - 1 :])


def run(server: ServerProcess, whit: Client, count: int) -> Course:
    """Sends ``count`` texts in streams of CHUNK, and after each a few texts alone, whose vectors must be those of the start."""
    model = whit.models()[0]
    probes = [stsb("dev").first[0], collection("cranfield", "dev").documents[0]]

    def alone() -> list[bytes]:
        return [whit.embed([p], model=model.name, on_overflow="truncate").vectors.tobytes() for p in probes]

    course, expected = Course(), alone()
    start = time.perf_counter()
    source = mixture(min(CHUNK, count))
    while course.answered < count:
        texts, resident = next(source), 0
        try:
            batches = whit.embed_stream(
                texts, model=model.name, batch_size=BATCH, on_overflow="truncate", encoding="int8", timeout=None
            )
            for batch in batches:
                used = np.array([item.used_token_count for item in batch.items])
                course.answered += len(batch)
                course.tokens += int(used.sum())
                course.full_length += int((used == model.max_token_count).sum())
                resident = max(resident, server.memory_bytes()[0])
        except (
            Unavailable
        ) as error:  # a process that was stopped for minutes loses its connection; a dead server shows below
            course.broken_streams += 1
            print(f"stream broken after {course.answered} texts: {error}", file=sys.stderr, flush=True)
        course.changed_vectors += alone() != expected
        course.timeline.append((course.answered, resident or server.memory_bytes()[0]))
        rate = course.answered / (time.perf_counter() - start)
        print(f"{course.answered} texts, {course.timeline[-1][1] / 1e6:.1f} MB, {rate:.0f} texts/s", flush=True)
    return course


def measure(package: Path, count: int) -> dict[str, Any]:
    """The load, and then an idle server for IDLE_S seconds."""
    with (
        tempfile.TemporaryDirectory() as data,
        running([package], Path(data)) as server,
        Client(server.address) as whit,
    ):
        begin, cpu = time.perf_counter(), server.cpu_seconds()
        course = run(server, whit, count)
        seconds, cpu = time.perf_counter() - begin, server.cpu_seconds() - cpu
        time.sleep(2)  # what the last call left to do
        busy = server.cpu_seconds()
        time.sleep(IDLE_S)
        idle_share = (server.cpu_seconds() - busy) / IDLE_S
        end, peak = server.memory_bytes()
    warm, most = course.warm(count)
    return {
        "machine": describe(),
        "package": package.name,
        "text_count": course.answered,
        "token_count": course.tokens,
        "full_length_text_count": course.full_length,
        "seconds": round(seconds),
        "server_cpu_seconds": round(cpu, 1),
        "warm_mb": round(warm / 1e6, 1),
        "most_after_mb": round(most / 1e6, 1),
        "end_mb": round(end / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "memory_ratio": round(most / warm, 4),
        "idle_cpu_share": round(idle_share, 5),
        "changed_vectors": course.changed_vectors,
        "broken_streams": course.broken_streams,
        "timeline_mb": [(answered, round(resident / 1e6, 1)) for answered, resident in course.timeline],
    }


def verdict(found: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    faults = []
    if found["memory_ratio"] > MEMORY_LIMIT:
        faults.append(f"memory grew to {found['memory_ratio']} of that after the warm-up, more than {MEMORY_LIMIT}")
    if found["idle_cpu_share"] >= IDLE_LIMIT:
        faults.append(f"the idle server used {found['idle_cpu_share']:.2%} of a core, not less than {IDLE_LIMIT:.0%}")
    if found["changed_vectors"]:
        faults.append(f"vectors of the same texts changed {found['changed_vectors']} times")
    return faults


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--texts", type=int, default=500_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.package, arguments.texts)
    print(json.dumps({name: value for name, value in found.items() if name != "timeline_mb"}, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if faults := verdict(found):
        raise SystemExit("; ".join(faults))


if __name__ == "__main__":
    main()
