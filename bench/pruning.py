"""Pruning methods beside magnitude and plain layer drop, at equal measured latency, without fine-tuning.

python -m bench.pruning CHECKPOINT [--layers 5 3] [--split test] [--calibration FILE] [--out bench/results/pruning.json]

For every number of layers kept, the speed-up of that model is measured, and heads and feed-forward columns are pruned to
the same time by each method: alike in all layers, and with shapes found by search. Rows that are in ``--out`` already are
not measured again; ``bench/results/pruning.json`` as ``--out`` also renews the table in docs/pruning.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data import stsb
from bench.machine import describe
from bench.peers.report import write_table
from whit.export.embed import embed
from whit.export.evaluate import sts_score
from whit.export.families import EncoderWeights
from whit.export.prune.latency import LatencyTable, Timer, measure_latency
from whit.export.prune.layers import LayerOptions, choose_layers
from whit.export.prune.shapes import Shape, shapes_of
from whit.export.prune.speedup import SpeedupOptions, prune_subject_to_speedup
from whit.export.prune.subject import Subject, parameter_count, read_subject
from whit.export.prune.width import prune_to_shapes

METHODS = ("magnitude", "stat", "obs")
CRITERIA = ("even", "loss", "cosine", "entropy")
INNER_STEP = 64

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "pruning.json"


class Rows:
    """The table under construction: a row is measured once and written at once."""

    def __init__(self, out: Path | None, subject: Subject, split: str, dtype: str, command: str) -> None:
        self._out, self._subject, self._sts = out, subject, stsb(split)
        self._timer = Timer(subject, dtype)
        self.found: dict[str, dict[str, Any]] = {}
        if out is not None and out.is_file():
            self.found = {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
        self._head: dict[str, Any] = {
            "command": command,
            "machine": describe(),
            "split": split,
            "dtype": dtype,
        }

    def add(self, name: str, make: Callable[[], EncoderWeights], **about: Any) -> dict[str, Any]:
        """Makes and measures a model, unless there is a row of that name."""
        if name not in self.found:
            weights = make()
            self.found[name] = {
                "name": name,
                **about,
                "speedup": round(self._timer.speedup(weights), 3),
                "sts_b": round(self._score(weights), 3),
                "parameters_in_layers": parameter_count(weights),
                "shapes": [[shape.heads, shape.inner] for shape in shapes_of(weights)],
            }
            print(self.found[name], flush=True)
            self.write()
        return self.found[name]

    def write(self) -> None:
        """Writes what there is, if a file was asked for."""
        if self._out is not None:
            self._out.write_text(json.dumps(self.content(), indent=2) + "\n", encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """All rows, and where they were measured."""
        return self._head | {"rows": list(self.found.values())}

    def _score(self, weights: EncoderWeights) -> float:
        sts = self._sts
        place = {text: i for i, text in enumerate(dict.fromkeys([*sts.first, *sts.second]))}
        vectors = embed(weights, self._subject.head, self._subject.token_ids(list(place)))
        first, second = ([place[text] for text in side] for side in (sts.first, sts.second))
        return sts_score(vectors[first], vectors[second], sts.scores)


def uniform_shape(table: LatencyTable, weights: EncoderWeights, seconds: float) -> Shape:
    """Heads and columns in about the same share for all layers, as near to a time as whole heads and vector registers allow."""
    whole = shapes_of(weights)[0]
    candidates = [
        Shape(heads, round(whole.inner * heads / whole.heads / INNER_STEP + shift) * INNER_STEP)
        for heads in range(1, whole.heads + 1)
        for shift in (-1, 0, 1)
    ]
    known = [shape for shape in candidates if shape.inner in table.feed_forward_s and shape.inner]
    return min(known, key=lambda shape: abs(table.total_s([shape] * len(weights.layers)) - seconds))


def measure(subject: Subject, counts: Sequence[int], rows: Rows, dtype: str, trials: int) -> None:
    """All rows."""
    weights = subject.weights
    whole = shapes_of(weights)[0]
    layer_total = len(weights.layers)
    rows.add("unpruned", lambda: weights, method="none", group="whole")
    quarter = Shape(whole.heads, whole.inner * 3 // 4)
    for method in METHODS:
        rows.add(
            f"ffn-75%-{method}",
            lambda m=method: prune_to_shapes(subject, [quarter] * layer_total, m),
            method=method,
            group="a quarter of the feed-forward columns removed",
        )
    options = SpeedupOptions(2, dtype=dtype, trials=trials)
    rows.add("speedup-2x", lambda: prune_subject_to_speedup(subject, options)[0], method="search", group="2x asked for")
    table = measure_latency(subject, dtype, range(whole.heads + 1), range(0, whole.inner + 1, INNER_STEP))
    for count in counts:
        group = f"as fast as {count} layers"
        speedups = []
        for criterion in CRITERIA:
            kept = choose_layers(subject, LayerOptions(count=count, criterion=criterion))[0]
            model = replace(weights, layers=[weights.layers[i] for i in kept])
            name = f"layers-{'-'.join(map(str, kept))}"
            row = rows.add(name, lambda m=model: m, method="layers", group=group, criteria=[])
            row["criteria"] = sorted({*row["criteria"], criterion})
            speedups.append(row["speedup"])
        target = sum(speedups) / len(speedups)
        shape = uniform_shape(table, weights, table.total_s(shapes_of(weights)) / target)
        for method in METHODS:
            rows.add(
                f"uniform-{count}-{method}",
                lambda m=method, s=shape: prune_to_shapes(subject, [s] * layer_total, m),
                method=method,
                group=group,
            )
        options = SpeedupOptions(round(target, 2), dtype=dtype, trials=trials)
        rows.add(
            f"search-{count}-obs",
            lambda o=options: prune_subject_to_speedup(subject, o)[0],
            method="search",
            group=group,
        )


def markdown(found: Mapping[str, Any]) -> str:
    """The table, one row a model, in groups of equal speed."""
    whole = found["rows"][0]
    lines = ["| | speed | parameters in layers | STS-B | lost |", "|---|---:|---:|---:|---:|"]
    for group in dict.fromkeys(row["group"] for row in found["rows"]):
        if group != "whole":
            lines.append(f"| **{group}** | | | | |")
        lines += [
            f"| {_describe(row)} | {row['speedup']:.2f} x | {row['parameters_in_layers'] / 1e6:.1f} M "
            f"| {row['sts_b']:.2f} | {whole['sts_b'] - row['sts_b']:.2f} |"
            for row in found["rows"]
            if row["group"] == group
        ]
    return "\n".join(lines)


def _describe(row: Mapping[str, Any]) -> str:
    shapes = row["shapes"]
    match row["method"]:
        case "none":
            return "unpruned"
        case "layers":
            return f"layers {', '.join(row['name'].split('-')[1:])} ({', '.join(row['criteria'])})"
        case "search":
            return (
                "shapes by search (obs): heads "
                + ", ".join(str(heads) for heads, _ in shapes)
                + "; columns "
                + ", ".join(str(inner) for _, inner in shapes)
            )
        case method:
            return f"{method}, {shapes[0][0]} heads and {shapes[0][1]} columns in each layer"


def main() -> None:
    """Measures, prints, writes; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 3])
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--dtype", default="int8", choices=("float32", "int8"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    subject = read_subject(arguments.checkpoint, arguments.calibration)
    layers = " ".join(map(str, arguments.layers))
    command = f"python -m bench.pruning CHECKPOINT --layers {layers} --split {arguments.split}"
    rows = Rows(arguments.out, subject, arguments.split, arguments.dtype, command)
    measure(subject, arguments.layers, rows, arguments.dtype, arguments.trials)
    rows.write()
    print(markdown(rows.content()))
    if arguments.out and arguments.out.resolve() == RESULTS:
        write_table(markdown(rows.content()), ROOT / "docs" / "pruning.md", "pruning")


if __name__ == "__main__":
    main()
