"""The schedule and the statistics of ``whit load``: pure functions, no clock."""

from itertools import islice

import numpy as np
import pytest

from whit.cli.load import _rates, load_table
from whit.cli.load_plan import LATE, NOT_SENT, OK, Outcome, Report, arrival_times, batches, latencies, summarize, sweep


def outcome(latency_s: float, status: str = OK, lag_s: float = 0.0, retry_after_s: float | None = None) -> Outcome:
    return Outcome(latency_s, lag_s, status, retry_after_s)


def report(rate: float, goodput: float) -> Report:
    return Report(rate, rate, goodput, 10, 10, 1.0, None, {OK: 10}, 0, 0.0)


# --- arrivals ---------------------------------------------------------------------------------------------------------


def test_arrivals_are_poisson() -> None:
    times = arrival_times(200.0, 100.0, seed=3)
    gaps = np.diff(times)

    assert (gaps >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 100
    assert len(times) == pytest.approx(20_000, rel=0.03)  # four standard deviations
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential; 0 for a metronome
    counts = np.bincount(times.astype(int), minlength=100)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.5)


def test_arrivals_are_the_same_for_the_same_seed_only() -> None:
    assert np.array_equal(arrival_times(50, 5, seed=1), arrival_times(50, 5, seed=1))
    assert not np.array_equal(arrival_times(50, 5, seed=1)[:10], arrival_times(50, 5, seed=2)[:10])


@pytest.mark.parametrize("seed", range(50))
def test_arrivals_fill_the_whole_time(seed: int) -> None:
    assert arrival_times(1000, 1, seed)[-1] > 0.95  # a schedule that ran out of draws would end early


@pytest.mark.parametrize(
    ("rate", "duration_s", "name"),
    [(0, 1, "rate"), (-1, 1, "rate"), (float("nan"), 1, "rate"), (1, 0, "duration_s"), (1, float("inf"), "duration_s")],
)
def test_a_schedule_that_cannot_be(rate: float, duration_s: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number"):
        arrival_times(rate, duration_s, seed=0)


def test_batches_use_every_text_before_any_again() -> None:
    texts = [str(i) for i in range(6)]
    first_six = list(islice(batches(texts, 2, seed=4), 3))

    assert sorted(text for batch in first_six for text in batch) == texts
    assert first_six == list(islice(batches(texts, 2, seed=4), 3))
    [long] = islice(batches(["a", "b"], 5, seed=0), 1)
    assert long in (["a", "b", "a", "b", "a"], ["b", "a", "b", "a", "b"])


# --- statistics -------------------------------------------------------------------------------------------------------


def test_latencies_are_nearest_ranks() -> None:
    found = latencies([float(v) for v in range(1000, 0, -1)])

    assert found == {"p50": 500.0, "p90": 900.0, "p95": 950.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}
    assert latencies([7.0]) == dict.fromkeys(found, 7.0)


def test_a_report_counts_every_request_once() -> None:
    outcomes = [
        *[outcome(0.010)] * 6,
        outcome(1.5, LATE),
        outcome(2.0, NOT_SENT, lag_s=2.0),
        outcome(0.001, "RESOURCE_EXHAUSTED", retry_after_s=0.2),
        outcome(0.001, "RESOURCE_EXHAUSTED"),
        outcome(1.0, "DEADLINE_EXCEEDED"),
        outcome(0.0, "UNAVAILABLE"),
    ]
    found = summarize(outcomes, rate=7.0, duration_s=2.0, texts_per_request=3)

    assert sum(found.statuses.values()) == found.request_count == 12
    assert next(iter(found.statuses)) == OK
    assert found.statuses["RESOURCE_EXHAUSTED"] == 2
    assert found.retry_info_count == 1
    assert (found.offered, found.goodput, found.kept_share) == (6.0, 3.0, 0.5)  # the late answer is no goodput
    assert found.text_count == 36
    assert found.latency_ms is not None
    assert found.latency_ms["p50"] == pytest.approx(10)
    assert found.latency_ms["max"] == pytest.approx(1500)  # but its latency counts; refusals' latencies do not
    assert found.lag_p99_ms > 1000


def test_a_report_without_answers() -> None:
    assert summarize([], rate=1, duration_s=1, texts_per_request=1).kept_share == 0
    refused = summarize([outcome(0.1, "UNAVAILABLE")], rate=1, duration_s=1, texts_per_request=1)
    assert (refused.latency_ms, refused.goodput) == (None, 0)


# --- the sweep and the table ------------------------------------------------------------------------------------------


def test_a_sweep_ends_where_the_server_falls_behind() -> None:
    reports: list[Report] = []
    tried = []
    for rate in _rates((10.0, 100.0), 2.0, reports):
        tried.append(rate)
        reports.append(report(rate, min(rate, 390.0)))

    assert tried == [10, 100, 200, 400, 800]  # 390 of 400 is still in time, 390 of 800 is not
    assert list(_rates((10.0, 20.0), None, [])) == [10, 20]
    assert len(sweep(1, 1.1, 12)) == 12
    kept_up = [report(1, 1)]
    assert len(list(_rates((1.0,), 2.0, kept_up))) == 12  # bounded, even for a server that nothing can fill


def test_the_table_has_a_row_a_rate() -> None:
    made = load_table([report(10, 10), report(20, 5)], deadline_ms=250)

    assert made.row_count == 2
    assert [str(column.header) for column in made.columns][:4] == ["rate", "sent", "in 250 ms, /s", "share"]
    assert [str(cell) for cell in made.columns[3].cells] == ["100.0%", "25.0%"]
