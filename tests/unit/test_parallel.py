"""Work side by side: order, how much is under way, and what fails."""

import itertools
import threading

import pytest

from whit.export import parallel
from whit.export.parallel import side_by_side


def test_results_come_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "core_count", lambda: 2)
    second_is_done = threading.Event()

    def work(i: int) -> int:
        if i == 0:
            assert second_is_done.wait(10)  # side by side, or this would wait in vain
        if i == 1:
            second_is_done.set()
        return i

    assert list(side_by_side(work, range(5))) == [0, 1, 2, 3, 4]


def test_no_more_is_begun_than_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "core_count", lambda: 2)
    begun = []

    taken = list(itertools.islice(side_by_side(begun.append, iter(range(1000))), 3))

    assert len(taken) == 3
    assert len(begun) <= 3 + 2


def test_what_fails_is_raised_in_its_place() -> None:
    def work(i: int) -> int:
        if i == 2:
            raise ValueError("two")
        return i

    results = side_by_side(work, range(5))

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
