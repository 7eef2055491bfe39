"""Signals that end a command, and one that must not."""

import os
import signal
from collections.abc import Iterator

import pytest

from whit.cli.signals import interrupted_by_signals


@pytest.fixture
def hang_up() -> Iterator[list[int]]:
    """What SIGHUP does before the command, and again after it: be noted here."""
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_is_interrupted(hang_up: list[int], number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        os.kill(os.getpid(), number)

    assert hang_up == []


def test_what_signals_did_before_they_do_again(hang_up: list[int]) -> None:
    with interrupted_by_signals():
        pass
    os.kill(os.getpid(), signal.SIGHUP)

    assert hang_up == [signal.SIGHUP]


def test_a_command_under_nohup_goes_on_when_the_terminal_is_closed(hang_up: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # all that nohup does

    with interrupted_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
