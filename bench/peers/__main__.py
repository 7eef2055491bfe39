"""whit beside other tools, each in its own environment: ``make bench-peers``.

python -m bench.peers [--rounds 5] [--scale 1] [--only NAME...] [--prepare-only] [--out bench/results/peers.json]

The first run installs every tool under build/peers and converts the model (minutes); a measurement is about a quarter of an hour. Contenders
take turns on the same texts, and all but the one whose turn it is are frozen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data import require
from bench.machine import describe
from bench.peers import measure, report
from bench.peers.contenders import BUILD, REQUIREMENTS, ROOT, Contender, contenders, interpreter
from bench.peers.prepare import environment, prepare
from bench.peers.process import Worker, WorkerError
from bench.reference import checkpoint_folder, reference_package

RESULT = ROOT / "bench" / "results" / "peers.json"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "peers.svg"
SAME_MODEL = 0.98
"""Least mean cosine of a contender's vectors: dynamic int8 has 0.99, a text cut at 128 tokens much less."""
SERVED = "whit_grpc_int8"


def main() -> None:
    """Prepares, measures, writes; see the module's docstring."""
    arguments = _parser().parse_args()
    require()
    checkpoint = checkpoint_folder()
    wanted = [c for c in contenders(checkpoint) if not arguments.only or c.name in arguments.only]
    if not wanted:
        raise SystemExit(f"--only: choose from {', '.join(c.name for c in contenders(checkpoint))}")
    for dtype in ("float32", "int8"):
        reference_package(dtype)
    missing = prepare(wanted, checkpoint)
    for name, why in missing.items():
        print(f"left out: {name}: {why}", file=sys.stderr, flush=True)
    if arguments.prepare_only:
        environment("plot")
        return
    texts = measure.read_texts(arguments.scale, arguments.split)
    content = run([c for c in wanted if c.name not in missing], texts, arguments.rounds, missing)
    content["sts_split"] = arguments.split
    if arguments.out:
        write(content, arguments.out)
    print(report.markdown(content))


def run(
    taking_part: Sequence[Contender], texts: measure.Texts, rounds: int, missing: Mapping[str, str]
) -> dict[str, Any]:
    """Starts everyone, measures, ends everyone. Whoever fails to load is left out and named."""
    begin, left_out = time.perf_counter(), dict(missing)
    rows: dict[str, dict[str, Any]] = {}
    reference: Any = None  # the first contender's vectors
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = []
        for contender in taking_part:
            worker = Worker(contender, BUILD / f"{contender.name}.log")
            stack.callback(worker.close)
            try:
                loaded = worker.load()
                quality = measure.measure_quality(worker, texts, scratch)
                vectors = quality.pop("vectors")
                reference = vectors if reference is None else reference
                closeness = measure.compare(vectors, reference)
                if closeness["mean_cosine"] < SAME_MODEL:
                    found = f"mean cosine {closeness['mean_cosine']:.4f} to the first contender's vectors"
                    raise WorkerError(
                        f"{contender.name}: {found}: it does not compute the same model, or cuts texts elsewhere"
                    )
            except WorkerError as error:
                left_out[contender.name] = str(error)
                print(f"left out: {error}", file=sys.stderr, flush=True)
                continue
            start = {"start_seconds": loaded["start_seconds"], "loaded_mb": sum(loaded["peak_bytes"]) / 1e6}
            rows[contender.name] = {"name": contender.name, "title": contender.title, **start, **quality, **closeness}
            workers.append(worker)
            print(
                f"{contender.name}: STS-B {quality['sts_b']:.2f}, loaded in {loaded['start_seconds']:.1f} s", flush=True
            )
        if not workers:
            raise SystemExit("no contender could be started; see above")
        samples = measure.measure_speed(workers, texts, rounds)
    for name, row in rows.items():
        row |= measure.summary(samples[name])
        row["ratio_to_first"] = measure.ratios(samples[name], samples[workers[0].contender.name])
        if SERVED in samples:
            row["ratio_of_served"] = measure.ratios(samples[SERVED], samples[name])
        row["samples"] = {
            key: {set_name: [round(v, 3) for v in values] for set_name, values in samples[name][key].items()}
            for key in ("texts_per_s", "cpu_ms_per_text")
        }
    return {
        "command": "make bench-peers",
        "machine": describe(),
        "rounds": rounds,
        "seconds": round(time.perf_counter() - begin),
        "sts_pair_count": len(texts.sts.first),
        "text_count": {name: len(given) for name, given in texts.sets.items()} | {"single": len(texts.single)},
        "requirements": {name: list(found) for name, found in REQUIREMENTS.items()},
        "left_out": left_out,
        "contenders": list(rows.values()),
    }


def write(content: Mapping[str, Any], out: Path) -> None:
    """The JSON, and for the committed result the table and the plot in the documentation too."""
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if out.resolve() != RESULT:
        return
    report.write_table(report.markdown(content), PAGE, "peers")
    environment("plot")
    subprocess.run([interpreter("plot"), "-m", "bench.peers.report", out.resolve(), PLOT], check=True, cwd=ROOT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of texts")
    parser.add_argument("--split", default="test", choices=("dev", "test"), help="of STS-B, for the quality")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders")
    parser.add_argument("--prepare-only", action="store_true", help="install and convert, measure nothing")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
