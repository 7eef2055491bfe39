"""Wrong usage is exit code 2 and one line that names the option, before anything is read, sent or made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from whit.cli.app import run
from whit.cli.command import Failure
from whit.cli.remote import choose_model, why

NOT_UTF8 = "\udcff"
HUGE = "99999999999"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "a", "--dimensions", HUGE], "'--dimensions': 99999999999 is more than 2,147,483,647."),
        (["embed", "a", "--layers", HUGE], "'--layers': 99999999999 is more than 2,147,483,647."),
        (["search", "notes", "a", "--limit", HUGE], "'--limit': 99999999999 is more than 2,147,483,647."),
        (["search", "notes", NOT_UTF8], "'QUESTION': it is not UTF-8."),
        (["search", "notes", "a", "--role", NOT_UTF8], "'--role': it is not UTF-8."),
        (["embed", "a", "--model", NOT_UTF8], "'--model': it is not UTF-8."),
        (["embed", "a", "--instruction", NOT_UTF8], "'--instruction': it is not UTF-8."),
        (["models", "--timeout-s", "inf"], "'--timeout-s': inf is not a number up to 1,000,000,000."),
        (["models", "--timeout-s", "nan"], "'--timeout-s': nan is not a number up to 1,000,000,000."),
        (["models", "--server", "localhost:99999"], "--server (or WHIT_SERVER): address must be HOST:PORT"),
        (["load", "--rate", "inf"], "'--rate': inf is not a number"),
        (["load", "--duration-s", "nan"], "'--duration-s': nan is not a number"),
        (["load", "--deadline-ms", "inf"], "'--deadline-ms': inf is not a number"),
        (["load", "--rate", "1e6", "--duration-s", "1e6"], "more than 10,000,000; lower --rate or --duration-s."),
        (["eval", "package"], "nothing to evaluate on; give --sts, --retrieval, --classify, --pairs or --stress."),
        (["eval", "package", "--sts", "a.tsv", "--match-from", "3"], "--match-from goes with --pairs."),
        (["compare", "package"], "nothing to compare on; give --sts, --retrieval or --classify."),
        (["compare", "package", "--sts", "a", "--plot", "no/a.svg"], "--plot: the directory no is not there; make it"),
        (["trim", "model", "--out", "o", "--share"], "--share goes with --size"),
        (["trim", "model", "--out", "o", "--size", "9"], "--size goes with --corpus"),
        (["soup", "model", "--out", "o"], "a soup needs at least 2 CHECKPOINTs, got 1"),
        (["soup", "a", "b", "--out", "o", "--weights", "1"], "--weights must be 2 numbers, one for each checkpoint"),
        (["soup", "a", "b", "--out", "o", "--weights", "1,-1"], "--weights must be 0 or more and not all 0"),
        (
            ["static", "model", "--texts", "t", "--out", "o", "--typo-share", "1.5"],
            "--typo-share must be 0 to 1, got 1.5.",
        ),
        (
            ["static", "model", "--texts", "t", "--out", "o", "--word-count", "-1"],
            "--word-count must be 0 or more, got -1.",
        ),
        (["static", "model", "--texts", "t", "--out", "o", "--seed", "-1"], "--seed must be 0 or more, got -1."),
        (["words", "file", "--out", "o", "--max-token-count", "0"], "--max-token-count must be at least 1, got 0."),
        (["words", "file", "--out", "o", "--dimension-count", "0"], "--dimension-count must be at least 1, got 0."),
        (["distill", "model", "--teacher", "t", "--out", "o"], "nothing to learn from; give --texts or --pairs."),
        (["export", "model", "--out", "o", "--work", "w"], "--work goes with --recipe."),
        (["export", "model", "--out", "o", "--embedding-code-count", "3"], "goes with --embedding-dtype pq."),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(arguments) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert f"See: whit {arguments[0]} --help" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_not_written_over_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a text")

    assert run(["embed", "--file", str(texts), "--out", str(tmp_path / "." / "texts.txt")]) == 2

    assert "--out is the file that --file reads; name another." in capsys.readouterr().err
    assert texts.read_text() == "a text"


def test_a_model_that_must_be_chosen_is_an_option_that_is_missing() -> None:
    def having(*names: str) -> Any:
        return SimpleNamespace(models=lambda: [SimpleNamespace(name=name) for name in names])

    assert choose_model(having("one"), None) == "one"
    assert choose_model(having("one"), "") == ""  # an unset variable in a script: for the server to refuse
    with pytest.raises(click.UsageError, match="pick one with --model: one, two"):
        choose_model(having("one", "two"), None)
    with pytest.raises(Failure, match="the server has no model loaded"):
        choose_model(having(), None)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("config.role: must be one of a, b; got 'c'", "--role: must be one of a, b; got 'c'"),
        ("options.limit: must be 1 to 9, or left out; got 99", "--limit: must be 1 to 9, or left out; got 99"),
        (
            'has 9 tokens; shorten it, or ask for on_overflow="truncate"',
            "has 9 tokens; shorten it, or give --on-overflow truncate",
        ),
        ("options.instruction: may have 4096 bytes", "--instruction: may have 4096 bytes"),
        ("options.layer_count: must be left out", "--layers: must be left out"),
        ("collection.model: must be 1 to 9 of a-z; got ''", "--model: must be 1 to 9 of a-z; got ''"),
        ("the limit: is not a field here", "the limit: is not a field here"),
        (
            "Embed at host:1 was not done within timeout=1 s; give a larger timeout, or None for no limit",
            "Embed at host:1 was not done within timeout=1 s; give a larger --timeout-s",
        ),
    ],
)
def test_fields_of_the_wire_are_told_as_options(said: str, told: str) -> None:
    assert why(said) == told
