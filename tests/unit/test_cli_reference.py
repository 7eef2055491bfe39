"""docs/cli.md says what the commands say."""

from pathlib import Path

import pytest

from whit.cli.app import COMMANDS
from whit.cli.reference import WIDTH, reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_committed_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m whit.cli.reference > docs/cli.md"


def test_every_command_has_its_section() -> None:
    lines = reference().splitlines()

    assert [line for line in lines if line.startswith("## ")] == ["## whit", *(f"## whit {name}" for name in COMMANDS)]
    assert lines.count("Examples:") == len(COMMANDS)
    assert lines.count("Exit codes:") == len(COMMANDS) + 1


def test_the_page_does_not_depend_on_terminal_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference()
    for name, value in {"COLUMNS": "40", "LINES": "5", "WHIT_SERVER": "10.0.0.1:1", "WHIT_DATA": "elsewhere"}.items():
        monkeypatch.setenv(name, value)

    assert reference() == expected
    assert any(len(line) > 80 for line in expected.splitlines())
    examples = {line for line in expected.splitlines() if line.startswith("  whit ")}
    assert all(len(line) <= max(WIDTH, 130) for line in expected.splitlines() if line not in examples)
