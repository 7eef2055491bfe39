"""``--speedup``: the table of times adds up, the search is exact, and what comes out is faster by the clock."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.errors import CheckpointError
from whit.export.families import encoder_weights
from whit.export.prune import speedup
from whit.export.prune.latency import LatencyTable, Timer, cut_to_shapes, int8_plan
from whit.export.prune.shapes import Shape, shapes_of
from whit.export.prune.speedup import (
    SpeedupOptions,
    build_database,
    cheapest_sizes,
    prune_subject_to_speedup,
    prune_to_speedup,
    search,
)
from whit.export.prune.subject import read_subject


def brute_force(
    errors: Sequence[Mapping[int, float]], times: Sequence[Mapping[int, float]], budget: float
) -> float | None:
    fits = [
        sum(error[size] for error, size in zip(errors, sizes, strict=True))
        for sizes in itertools.product(*errors)
        if sum(cost[size] for cost, size in zip(times, sizes, strict=True)) <= budget
    ]
    return min(fits, default=None)


@pytest.mark.parametrize("seed", range(8))
def test_the_cheapest_sizes_are_the_cheapest(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [0, 1, 2, 3]
    errors = [dict(zip(sizes, sorted(random.random(4), reverse=True), strict=True)) for _ in range(4)]
    times = [dict(zip(sizes, sorted(random.random(4)), strict=True)) for _ in range(4)]
    budget = 2.0 * random.random()

    chosen = cheapest_sizes(errors, times, budget)
    expected = brute_force(errors, times, budget)

    if chosen is None:
        assert expected is None or budget < 1.01 * sum(cost[0] for cost in times)
        return
    assert sum(cost[size] for cost, size in zip(times, chosen, strict=True)) <= budget
    assert sum(error[size] for error, size in zip(errors, chosen, strict=True)) == pytest.approx(expected)


def test_sizes_that_do_not_fit() -> None:
    assert cheapest_sizes([{0: 1.0, 1: 0.0}], [{0: 0.5, 1: 1.0}], 0.4) is None
    assert cheapest_sizes([{0: 1.0, 1: 0.0}], [{0: 0.0, 1: 1.0}], 0.0) is None
    assert cheapest_sizes([{0: 1.0, 1: 0.0}], [{0: 0.0, 1: 1.0}], 1.0) == [1]


def test_the_table_adds_up() -> None:
    table = LatencyTable(1.0, {0: 0.0, 2: 0.5}, {0: 0.0, 8: 0.25})
    assert table.total_s([Shape(2, 8), Shape(0, 8)]) == 2.0


def test_models_to_be_timed_have_the_shapes_asked_for(tmp_path: Path) -> None:
    weights = encoder_weights(read_checkpoint(tiny.write_checkpoint(tmp_path)))
    cut = cut_to_shapes(weights, [Shape(3, 16), Shape(1, 0)])
    assert shapes_of(cut) == [Shape(3, 16), Shape(1, 0)]
    assert int8_plan(cut).schemes.keys() == {
        f"layers.{i}.{part}" for i in (0, 1) for part in ("qkv", "out", "up", "down")
    }


def test_the_search_finds_what_is_not_needed(tmp_path: Path) -> None:
    """Time is made up here, so that the outcome does not hang on the clock; errors are measured."""
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    heads, inner = [0, 2, 4], [0, 16, 32, 48, 64]
    database = build_database(subject, heads, inner, "obs", lambda *_: None)
    table = LatencyTable(0.1, {n: n / 4 for n in heads}, {n: n / 64 for n in inner})

    shapes = search(subject, database, table, 2.1, SpeedupOptions(2, trials=8), lambda *_: None)

    assert table.total_s(shapes) <= 2.1
    assert all(errors[max(errors)] == 0 for errors in database.errors.values())
    assert all(errors[0] > 0 for errors in database.errors.values())


def test_a_layer_with_nothing_left_stays_so(tmp_path: Path) -> None:
    """As the first ``--speedup`` leaves some; time is made up here, too."""
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    emptied = cut_to_shapes(subject.weights, [Shape(0, 0), Shape(4, 64)])
    subject = replace(subject, weights=emptied)
    database = build_database(subject, [0, 4], [0, 64], "obs", lambda *_: None)
    table = LatencyTable(0.1, {0: 0.0, 4: 1.0}, {0: 0.0, 64: 1.0})

    shapes = search(subject, database, table, 1.1, SpeedupOptions(2, trials=2), lambda *_: None)

    assert shapes[0] == Shape(0, 0)
    assert shapes[1] in (Shape(4, 0), Shape(0, 64))


def test_a_model_gets_faster_by_the_clock(tmp_path: Path) -> None:
    """Large enough that the clock sees it; the tolerance is for the machine, not for the method."""
    source = tiny.write_checkpoint(
        tmp_path / "source", hidden_size=256, intermediate_size=512, num_attention_heads=4, num_hidden_layers=2
    )

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{word} we went through the small world and back" for word in "abcdefghijklmnop"))

    report = prune_to_speedup(
        source, tmp_path / "out", SpeedupOptions(1.5, dtype="float32", calibration=texts, trials=2)
    )

    shapes = shapes_of(encoder_weights(read_checkpoint(tmp_path / "out")))
    assert report.speedup > 1.15
    assert [(shape.heads, shape.inner) for shape in shapes] == list(
        zip(report.width.head_counts, report.width.inner_counts, strict=True)
    )
    assert report.width.parameter_count < report.width.parameter_count_before


def test_the_search_nearest_to_the_target_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is scripted: a short search, four whole ones of which none hits 1.5 to 1.59, and what comes out."""
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    found = [[Shape(heads, 16), Shape(1, 16)] for heads in (1, 2, 3, 4, 1)]
    times, shapes = iter([1.2, 1.3, 1.7, 1.46, 1.35, 1.44]), iter(found)
    monkeypatch.setattr(speedup, "_check_reach", lambda *_: None)
    monkeypatch.setattr(speedup, "search", lambda *_: next(shapes))
    monkeypatch.setattr(Timer, "speedup", lambda *_: next(times))

    pruned, reached, _ = prune_subject_to_speedup(subject, SpeedupOptions(1.5, dtype="float32", trials=2))

    assert shapes_of(pruned) == found[3]
    assert reached == 1.44


def test_a_target_out_of_reach_says_the_nearest(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"speed-up of 500 cannot be met.* it is \d+\.\d\d here"):
        prune_to_speedup(source, tmp_path / "out", SpeedupOptions(500))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SpeedupOptions(1.0), "over 1"),
        (SpeedupOptions(2, dtype="int4"), "float32, int8"),
        (SpeedupOptions(2, method="luck"), "magnitude, stat, obs"),
        (SpeedupOptions(2, trials=0), "trials"),
    ],
)
def test_options_that_cannot_be_met(options: SpeedupOptions, words: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=words):
        prune_to_speedup(source, tmp_path / "out", options)
