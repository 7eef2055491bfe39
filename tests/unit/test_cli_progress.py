"""Progress of long commands where nobody watches a terminal."""

import pytest

from whit.cli import output


def test_without_a_terminal_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)

    with output.progress() as bar:
        task = bar.add_task("distill (texts)", total=170_000)
        for done in range(0, 13_000, 1000):
            now += 10
            bar.update(task, completed=done)

    assert capsys.readouterr().err.splitlines() == [
        "distill (texts): 5,000 of 170,000",
        "distill (texts): 11,000 of 170,000",
    ]
