"""What the comparison with other tools says about its samples: medians, paired ratios, tables."""

from pathlib import Path

import numpy as np
import pytest

from bench.peers import measure, report
from bench.peers.__main__ import SAME_MODEL
from bench.peers.contenders import REQUIREMENTS, WORKERS, contenders, servers


def samples(rates: list[float], single_ms: list[list[float]] | None = None) -> dict[str, object]:
    return {
        "texts_per_s": {"mixed": rates},
        "cpu_ms_per_text": {"mixed": [2.0] * len(rates)},
        "single_ms": single_ms or [[1.0, 2.0, 3.0]] * len(rates),
        "foreign_cores": [0.0, 0.5, 0.1],
        "peak_bytes": [2_000_000, 1_000_000],
    }


def test_a_ratio_is_paired_within_rounds() -> None:
    base, other = samples([100.0, 10.0, 50.0]), samples([200.0, 30.0, 75.0])
    found = measure.summary(other)

    assert found["texts_per_s"] == {"mixed": 75.0}
    assert measure.ratios(other, base) == {"mixed": 2.0}  # of 2, 3 and 1.5; the medians' ratio would be 1.5
    assert found["spread"]["mixed"] == pytest.approx((200 - 30) / 2 / 75)
    assert found["peak_mb"] == 3.0  # server and client
    assert (found["foreign_cores"], found["foreign_cores_max"]) == (0.1, 0.5)


def test_single_calls_are_summed_up_by_round() -> None:
    calls = [[1.0] * 100, [5.0] * 100, [2.0] * 90 + [50.0] * 10]
    found = measure.summary(samples([1.0] * 3, calls))

    assert (found["single_p50_ms"], found["single_p95_ms"]) == (2.0, 5.0)
    assert found["single_p99_ms"] == 50.0  # over all calls: a round has too few


def test_compare_sees_other_vectors() -> None:
    unit = np.eye(4, dtype=np.float32)
    assert measure.compare(unit, 3 * unit) == {"mean_cosine": 1.0, "min_cosine": 1.0}
    assert measure.compare(unit, unit[::-1])["mean_cosine"] < SAME_MODEL


def row(name: str, *, difference: float) -> dict[str, object]:
    rates = {"short": 1234.0, "abstracts": 20.5, "mixed": 60.0}
    return {
        "name": name,
        "title": f"Tool {name}",
        "texts_per_s": rates,
        "ratio_of_served": dict.fromkeys(rates, 1.5),
        "spread": dict.fromkeys(rates, 0.1),
        "cpu_ms_per_text": dict.fromkeys(rates, 9.0),
        "single_p50_ms": 2.0,
        "single_p95_ms": 3.0,
        "single_p99_ms": 4.0,
        "peak_mb": 1024.0,
        "sts_b": 82.03,
        "cranfield": 40.0 if difference else None,
        "vector_bytes": 1536,
        "foreign_cores": 0.02,
        "batch_max_difference": difference,
        "batch_min_cosine": 0.96,
    }


def test_the_table_replaces_what_was_between_its_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = {"cpu": "a CPU", "cores": 2, "python": "3.11", "date": "2026-01-01"}
    rows = [row("a", difference=0.0), row("b", difference=0.1)]
    body = report.markdown({"machine": machine, "rounds": 5, "contenders": rows, "left_out": {"c": "no wheel\nmore"}})
    page = tmp_path / "page.md"
    begin, end = "<!-- peers: begin (make bench-peers) -->", "<!-- peers: end -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for _ in range(2):
        report.write_table(body, page, "peers")

    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], lines.count(begin), lines.count(end)) == ("before", "after", 1, 1)
    assert "old" not in lines
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 4
    assert len({line.count("|") for line in tables}) == 1
    assert tables[2].endswith("| identical bytes |")
    assert tables[3].endswith("| 0.9600 |")
    assert "| 82.03 / - | 1,536 |" in tables[2]
    assert "| 82.03 / 40.0 | 1,536 |" in tables[3]
    assert "| 1,234 | 20.5 | 60 | 1.50 / 1.50 / 1.50 |" in tables[2]
    assert "Left out: c (no wheel)." in lines
    assert capsys.readouterr().err == ""

    report.write_table(body, page, "servers")
    assert "has no place for the table" in capsys.readouterr().err


def test_every_contender_has_its_script_and_pinned_versions() -> None:
    for contender in (*contenders(Path("checkpoint")), *servers()):
        assert (WORKERS / contender.script).is_file()
        assert contender.environment == "whit" or contender.environment in REQUIREMENTS
    unpinned = {part for parts in REQUIREMENTS.values() for part in parts if "==" not in part}
    assert unpinned == set()


def test_the_page_has_places_for_both_tables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in ("peers", "servers"):
        assert page.count(f"<!-- {name}: begin (make bench-{name}) -->") == page.count(f"<!-- {name}: end -->") == 1
