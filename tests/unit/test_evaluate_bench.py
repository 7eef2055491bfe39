"""The benchmarks of the compression workshop: how figures and targets become a table, and what the command line takes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from bench import encodings, frontier
from whit.export.evaluate.codes import Code, search


def row(name: str, **changes: Any) -> dict[str, Any]:
    figures = {"size_mb": 22.9, "speed": 3.14, "sts_b": 82.0, "cranfield": 99.7, "ten_best": 95.04}
    bounds = {"speed_bounds": [3.0, 3.3], "sts_b_bounds": [80.0, 84.0], "cranfield_bounds": [98.0, 101.0]}
    return {"name": name, "title": name, **figures, **bounds, **changes}


def test_frontier_table_marks_what_is_reached_beside_its_target() -> None:
    target = {"size_mb": 23, "speed": 3.0, "sts_b": 82.5, "cranfield": 100}
    reached = {"size_mb": True, "speed": True, "sts_b": False, "cranfield": False}
    machine = {"cpu": "C", "cores": 2, "date": "today"}
    rows = [row("float32"), row("int8", target=target, reached=reached)]
    content = {"machine": machine, "split": "dev", "rounds": 7, "timed_text_count": 400, "packages": rows}

    table = frontier.markdown(content).splitlines()

    assert table[2].startswith("| float32 | 22.9 | 3.14 (3.00 to 3.30) |")
    assert table[3] == (
        "| int8 | **22.9** [≤ 23] | **3.14** (3.00 to 3.30) [≥ 3] | 82.00 (80.00 to 84.00) [≥ 82.5] "
        "| 99.7 (98.0 to 101.0) [≥ 100] | 95.0 |"
    )


def test_frontier_greys_a_package_only_where_another_is_better_in_both() -> None:
    rows = [
        row("a", size_mb=90, speed=1.0, sts_b=82.0),
        row("b", size_mb=20, speed=3.0, sts_b=81.0),
        row("c", speed=2.0, sts_b=80.0),
    ]

    panels = frontier.panels({"packages": rows})

    assert [[point.dominated for point in panel.points] for panel in panels[:2]] == [[False, False, True]] * 2


def test_frontier_takes_names_and_files_of_names(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"int8-4": "four"}))
    (tmp_path / "p.toml").write_text('int8-3 = "three"\n')

    found = frontier._folders(["int8-6=six", str(tmp_path / "p.json"), str(tmp_path / "p.toml")], Path("base"))

    assert {name: str(folder) for name, folder in found.items()} == {
        "float32": "base",
        "int8-6": "six",
        "int8-4": "four",
        "int8-3": "three",
    }


def test_frontier_targets_are_whole() -> None:
    targets = tomllib.loads(Path(frontier.__file__).with_name("frontier.toml").read_text(encoding="utf-8"))

    numbers = {tuple(value for key, value in target.items() if key != "title") for target in targets.values()}
    assert len(numbers) == 8  # two packages are for the same ones
    assert all(set(t) == {"title", "size_mb", "speed", "sts_b", "cranfield"} for t in targets.values())


def test_the_servers_scores_rank_as_int8_codes_do() -> None:
    random = np.random.default_rng(0)
    documents, queries = (random.standard_normal((n, 32)).astype(np.float32) for n in (60, 5))
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)

    assert np.array_equal(encodings._server_search(documents, queries), search(documents, queries, Code.INT8))
