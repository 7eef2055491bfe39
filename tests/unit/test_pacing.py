"""The pace of the event loop: how long it waits before it looks at what has happened."""

import selectors
import socket
from collections.abc import Iterator

import pytest

from whit.server.pacing import PacedSelector


class Time:
    """A clock that goes on when somebody sleeps, and counts what they slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def selector(time: Time) -> Iterator[PacedSelector]:
    """One that always has something to tell."""
    paced = PacedSelector(clock=lambda: time.now, sleep=time.sleep)
    ours, theirs = socket.socketpair()
    with paced, ours, theirs:
        theirs.send(b"x")
        paced.register(ours, selectors.EVENT_READ)
        yield paced


def refuse(selector: PacedSelector, count: int) -> None:
    for _ in range(count):
        selector.refused()


def test_without_refusals_it_does_not_wait(selector: PacedSelector, time: Time) -> None:
    assert len(selector.select(10)) == 1
    assert len(selector.select()) == 1
    assert time.slept == []


def test_a_few_refusals_are_no_crowd(selector: PacedSelector, time: Time) -> None:
    refuse(selector, 7)
    selector.select()
    assert time.slept == []


def test_in_a_crowd_two_looks_are_five_milliseconds_apart(selector: PacedSelector, time: Time) -> None:
    refuse(selector, 8)
    selector.select()
    time.now += 0.002  # what the loop did in between
    assert len(selector.select()) == 1
    assert time.slept == pytest.approx([0.005, 0.003])


def test_a_loop_that_was_busy_for_longer_does_not_wait(selector: PacedSelector, time: Time) -> None:
    refuse(selector, 8)
    time.now += 0.006
    selector.select()
    assert time.slept == []


def test_never_longer_than_the_loop_has_time(selector: PacedSelector, time: Time) -> None:
    refuse(selector, 8)
    selector.select(0)  # something is ready to run
    assert time.slept == []
    selector.select(0.001)
    assert time.slept == pytest.approx([0.001])


def test_a_crowd_is_over_after_half_a_second(selector: PacedSelector, time: Time) -> None:
    refuse(selector, 8)
    time.now += 0.5
    selector.select()
    assert time.slept == []


def test_refusals_far_apart_are_no_crowd(selector: PacedSelector, time: Time) -> None:
    for _ in range(20):
        time.now += 0.1
        refuse(selector, 1)
    selector.select()
    assert time.slept == []
