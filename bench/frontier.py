"""The frontier: compressed packages beside the float32 one, in one run, against the targets in ``frontier.toml``.

python -m bench.frontier NAME=FOLDER... [--base FLOAT_PACKAGE] [--split test] [--rounds 7]

NAME is a row of ``frontier.toml``, or any other name: a package without targets. Instead of NAME=FOLDER, a ``.toml`` or ``.json``
file that maps names to folders. Writes ``bench/results/frontier.json``, ``docs/frontier.svg`` and the table in
``docs/compression.md``; with ``--out DIR`` all three go there.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import collection, require, stsb, titles
from bench.machine import describe
from bench.peers.report import write_table
from bench.reference import reference_package
from whit.export.evaluate.metrics import ranking
from whit.export.evaluate.model import DOCUMENT, QUERY, Model, Progress, silent
from whit.export.evaluate.outcome import Interval, Outcome, compare, retained
from whit.export.evaluate.pareto import Speed, measure_speeds
from whit.export.evaluate.plot import Panel, Point, svg
from whit.export.evaluate.sets import EvaluationSet, Form, RetrievalSet, StsSet

ROOT = Path(__file__).parents[1]
BASE = "float32"
_TIMED_TEXTS = 400


def measure(folders: Mapping[str, Path], *, split: str, rounds: int, progress: Progress = silent) -> dict[str, Any]:
    """Size, speed and quality of each package; the first is the base. Bounds are of 95 % intervals, over pairs and queries."""
    models = [Model(folder, name=name, threads=2) for name, folder in folders.items()]
    sentences = stsb("dev")
    texts = [*sentences.first, *sentences.second][:_TIMED_TEXTS]
    # Timed before anything else, all in turns within the same minute.
    speeds = measure_speeds(models, texts, rounds=rounds, progress=progress)
    sets: dict[str, EvaluationSet] = {
        "sts_b": StsSet("STS-B", stsb(split)),
        "cranfield": RetrievalSet("Cranfield", collection("cranfield", split)),
    }
    targets = tomllib.loads((Path(__file__).parent / "frontier.toml").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    base: Mapping[str, Outcome] | None = None
    documents, questions = collection("cranfield", split).documents, titles("cranfield")
    base_hits: NDArray[np.intp] | None = None
    for model, speed in zip(models, speeds, strict=True):
        outcomes = _outcomes(model, sets)
        base = base or outcomes
        hits = ranking(model.embed(documents, role=DOCUMENT), model.embed(questions, role=QUERY), 10)
        base_hits = hits if base_hits is None else base_hits
        row = _row(model, speed, outcomes, base, targets.get(model.name))
        rows.append(row | {"ten_best": float(_shared(hits, base_hits).mean())})
        progress("packages measured", len(rows), len(models))
    return {"machine": describe(), "split": split, "rounds": rounds, "timed_text_count": len(texts), "packages": rows}


def _shared(hits: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.float64]:
    """For each query, which share in % of its hits [queries, k] is among the other's."""
    return 100 * (hits[:, :, None] == others[:, None, :]).any(axis=2).mean(axis=1)


def _outcomes(model: Model, sets: Mapping[str, EvaluationSet]) -> dict[str, Outcome]:
    return {key: each.outcome(model, Form()) for key, each in sets.items()}


def _row(
    model: Model,
    speed: Speed,
    outcomes: Mapping[str, Outcome],
    base: Mapping[str, Outcome],
    target: Mapping[str, Any] | None,
) -> dict[str, Any]:
    share, share_interval = retained(outcomes["cranfield"], base["cranfield"])
    row = {
        "name": model.name,
        "title": (target or {}).get("title", model.name),
        "fingerprint": model.package.manifest.fingerprint,
        "size_mb": model.package.size_bytes / 1e6,
        "speed": speed.ratio,
        "speed_bounds": [speed.ratio_low, speed.ratio_high],
        "texts_per_cpu_s": speed.texts_per_cpu_s,
        "wall_ratio": speed.wall_ratio,
        "sts_b": outcomes["sts_b"].score,
        "sts_b_bounds": _bounds(outcomes["sts_b"].interval()),
        "sts_b_p": compare(outcomes["sts_b"], base["sts_b"]).p,
        "cranfield_ndcg_at_10": outcomes["cranfield"].score,
        "cranfield": share,
        "cranfield_bounds": _bounds(share_interval),
        "cranfield_p": compare(outcomes["cranfield"], base["cranfield"]).p,
    }
    if target:
        goals = {key: target[key] for key in ("size_mb", "speed", "sts_b", "cranfield")}
        reached = {key: row[key] <= goal if key == "size_mb" else row[key] >= goal for key, goal in goals.items()}
        row |= {"target": goals, "reached": reached}
    return row


def _bounds(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def markdown(content: Mapping[str, Any]) -> str:
    """The table: each figure with its bounds, and its target in brackets where it has one."""
    columns = ["package", "size, MB", "speed, times float32", "STS-B", "Cranfield, % of float32", "of its ten best, %"]
    lines = ["| " + " | ".join(columns) + " |", "|---|---:|---:|---:|---:|---:|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in content["packages"]]
    machine = content["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}"
    note = (
        f"{where}. Split: {content['split']}. In brackets the target; **bold**: reached. Speed: one thread, {content['timed_text_count']} short texts, tokenising "
        f"included, CPU time, median of {content['rounds']} interleaved rounds, and their range. STS-B and Cranfield: 95 % intervals by bootstrap over pairs and queries. Of its ten best: "
        "which share of float32's own ten best hits is found, with the titles of Cranfield's documents as queries."
    )
    return "\n".join([*lines, "", note, "", "![Quality over size and speed](frontier.svg)"])


def _cells(row: Mapping[str, Any]) -> list[str]:
    def cell(key: str, digits: int) -> str:
        value = f"{row[key]:.{digits}f}"
        if row.get("reached", {}).get(key):
            value = f"**{value}**"
        bounds = row.get(f"{key}_bounds")
        if bounds:
            value += f" ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})"
        if "target" in row:
            value += f" [{'≤' if key == 'size_mb' else '≥'} {row['target'][key]:g}]"
        return value

    return [
        row["title"],
        *(cell(key, digits) for key, digits in (("size_mb", 1), ("speed", 2), ("sts_b", 2), ("cranfield", 1))),
        f"{row['ten_best']:.1f}",
    ]


def panels(content: Mapping[str, Any]) -> list[Panel]:
    """STS-B over size and over speed, Cranfield over speed."""
    rows = content["packages"]
    return [
        _panel(rows, "size_mb", "size, MB", "sts_b", "STS-B, Spearman x 100"),
        _panel(rows, "speed", "speed, times float32", "sts_b", "STS-B, Spearman x 100"),
        _panel(rows, "speed", "speed, times float32", "cranfield", "Cranfield, nDCG@10 in % of float32"),
    ]


def _panel(rows: Sequence[Mapping[str, Any]], x: str, x_title: str, y: str, y_title: str) -> Panel:
    goods = [(-row[x] if x == "size_mb" else row[x], row[y]) for row in rows]
    beaten = [any(g != own and g[0] >= own[0] and g[1] >= own[1] for g in goods) for own in goods]
    points = [Point(row["name"], row[x], row[y], bad) for row, bad in zip(rows, beaten, strict=True)]
    return Panel(y_title, x_title, "", points)


def _folders(arguments: Sequence[str], base: Path) -> dict[str, Path]:
    found = {BASE: base}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if equals:
            found[name] = Path(folder)
            continue
        text = Path(argument).read_text(encoding="utf-8")
        table = json.loads(text) if argument.endswith(".json") else tomllib.loads(text)
        found |= {name: Path(folder) for name, folder in table.items()}
    return found


def main() -> None:
    """Measures, writes, prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--base", type=Path, help="the reference model in float32, if none is given")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for the results and the plot; no page is changed")
    arguments = parser.parse_args()
    require()

    def show(stage: str, done: int, total: int) -> None:
        print(f"{stage}: {done} of {total}", flush=True)

    folders = _folders(arguments.packages, arguments.base or reference_package("float32"))
    found = {
        "command": f"python -m bench.frontier {' '.join(f'{name}=FOLDER' for name in list(folders)[1:])}",
        **measure(folders, split=arguments.split, rounds=arguments.rounds, progress=show),
    }
    results, plot = ROOT / "bench" / "results", ROOT / "docs"
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        results = plot = arguments.out
    (results / "frontier.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (plot / "frontier.svg").write_text(svg(panels(found), columns=3), encoding="utf-8")
    print(markdown(found))
    if not arguments.out:
        write_table(markdown(found), ROOT / "docs" / "compression.md", "frontier")


if __name__ == "__main__":
    main()
