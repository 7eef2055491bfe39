"""How soon a lone text is done: on one core and on all of them together, in process and over gRPC.

python -m bench.lone [PACKAGE] [--rounds 9] [--out bench/results/lone.json]

One caller that asks for one text after another, of each length in turn. The server that has one core is one of a single worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.reference import reference_package
from bench.server import running
from whit.client import Client
from whit.export.compile import calibration_texts
from whit.export.parallel import core_count
from whit.runtime import Tokenizer, open_encoder, open_package

TOKEN_COUNTS = (15, 64, 128, 256)
TEXTS_A_ROUND = 12
WARM_UP = 20  # a server learns what a model costs from its first runs, which are on one core


def texts_of(tokenizer: Tokenizer, token_count: int) -> list[str]:
    """As many different texts as a round has, of so many tokens."""
    words = " ".join(calibration_texts(None)).split()
    found = []
    for start in range(0, 10**6, 97):
        text = ""
        for word in words[start : start + token_count]:
            text = f"{text} {word}".strip()
            if (count := len(next(iter(tokenizer.encode([text]))))) >= token_count:
                break
        if count == token_count:
            found.append(text)
        if len(found) == TEXTS_A_ROUND:
            break
    return found


def measure(package: Path, rounds: int) -> dict[str, Any]:
    """Median milliseconds a text, by its tokens and by how it is asked for; in turns."""
    opened = open_package(package)
    tokenizer, encoder, name = Tokenizer(opened), open_encoder(opened), opened.manifest.name
    most = min(core_count(), encoder.most_cores)
    texts = {count: texts_of(tokenizer, count) for count in TOKEN_COUNTS}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def local(cores: int) -> Callable[[str], object]:
            return lambda text: encoder.run(tokenizer.encode([text]), core_count=cores)

        def remote(*arguments: str) -> Callable[[str], object]:
            server = stack.enter_context(running([package], Path(folder, str(len(arguments))), *arguments))
            client = stack.enter_context(Client(server.address))
            return lambda text: client.embed([text], model=name)

        ways = {
            "in_process_one_core": local(1),
            "in_process_all_cores": local(most),
            "grpc_one_core": remote("--worker-count", "1"),
            "grpc_all_cores": remote(),
        }
        for ask in ways.values():
            for text in texts[TOKEN_COUNTS[0]] * (WARM_UP // TEXTS_A_ROUND + 1):
                ask(text)
        seconds: dict[tuple[int, str], list[float]] = {(count, way): [] for count in texts for way in ways}
        for _ in range(rounds):
            for count, each in texts.items():
                for way, ask in ways.items():
                    for text in each:
                        start = time.perf_counter()
                        ask(text)
                        seconds[count, way].append(time.perf_counter() - start)
    medians = {count: {way: 1e3 * statistics.median(seconds[count, way]) for way in ways} for count in texts}
    return {"cores": most, "provider": encoder.provider, "p50_ms": medians}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    found = {"machine": describe(), **measure(given.package or reference_package("int8"), given.rounds)}
    for count, ways in found["p50_ms"].items():
        print(f"{count:4} tokens: " + ", ".join(f"{way} {ms:.2f}" for way, ms in ways.items()), "ms", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
